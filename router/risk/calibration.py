"""What was measured of a local model: scored prompts with its success, its confidence, and the baseline's success.

A file holds figures alone, no prompt and no answer, and is not a pickle.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from smallfirst.policies.risk import CalibrationRows

from ..arrays import read_arrays
from ..errors import SmallfirstError
from ..scoring.abilities import Ability, AbilityPrior, chosen_prior, place
from ..scoring.embedding import FloatArray

SUFFIX = ".npz"
FOLDS = 5
# Of a request that is unlike anything measured.
UNKNOWN_GAP = 1.0

BoolArray = npt.NDArray[np.bool_]


class CalibrationError(SmallfirstError):
    """A calibration file cannot be used. The message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Scored prompts of one model, a row each. N rows, K skills.

    Attributes:
        model: Whose answers were scored.
        baseline: Whose answers they are held against; None where none were made: it counts as always right then, so
            that the loss is never underestimated.
        artefact: Version of the classifier that gave the skills.
        created: The day.
        skills: (N, K), see `Prediction.skills`.
        known: (N) whether the request was like what the classifier has seen.
        success: (N) of the model, in [0, 1].
        confidence: (N) in [0, 1]; NaN where it told none.
        baseline_success: (N) in [0, 1].
        input_tokens: (N) of the prompt.
        output_tokens: (N) of the model's answer.
    """

    model: str
    baseline: str | None
    artefact: str
    created: str
    skills: FloatArray
    known: BoolArray
    success: FloatArray
    confidence: FloatArray
    baseline_success: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray

    def __len__(self) -> int:
        return len(self.success)

    def prior(self, published: AbilityPrior) -> AbilityPrior:
        """Return what the model is placed from: the published models' prior, wider where the rows ask for it.

        With many rows that takes fifteen fits: choose it once and pass it on.
        """
        return chosen_prior(self.skills, self.success, published)

    def ability(self, prior: AbilityPrior) -> Ability:
        """Place the model on all rows; `prior` as this model's `prior` gave it.

        Raises:
            ValueError: There are no rows.
        """
        return place(self.model, self.skills, self.success, prior)

    def success_out_of_fold(self, prior: AbilityPrior, *, seed: int = 0) -> FloatArray:
        """Return P(success) of each row by an ability that was placed without it, shape (N); `prior` as above."""
        fold = np.random.default_rng(seed).permutation(len(self)) % FOLDS
        p = np.zeros(len(self), np.float32)
        for number in np.unique(fold):
            inside = fold == number
            if inside.all():
                rest = Ability(self.model, prior.mean[1:], float(prior.mean[0]), 0)
            else:
                rest = place(self.model, self.skills[~inside], self.success[~inside], prior)
            p[inside] = rest.success(self.skills[inside])
        return p

    def rows(
        self, success: FloatArray, baseline: Ability, *, usd: tuple[FloatArray, FloatArray]
    ) -> CalibrationRows:
        """Return the rows as the risk budget's method takes them.

        Args:
            success: See `success_out_of_fold`, shape (N).
            baseline: The baseline's ability.
            usd: What asking the model and the baseline costs, each of shape (N).
        """
        gap = baseline.success(self.skills).astype(np.float64) - success
        # Where a request is unlike anything measured, the baseline alone is asked, whatever the thresholds: nothing
        # is lost then, no answer of the model is kept, and it costs nothing.
        return CalibrationRows(
            gap=np.where(self.known, gap, UNKNOWN_GAP),
            confidence=np.where(self.known, self.confidence, np.nan).astype(np.float64),
            local=np.where(self.known, self.success, self.baseline_success).astype(np.float64),
            baseline=self.baseline_success.astype(np.float64),
            local_usd=np.where(self.known, usd[0], 0.0).astype(np.float64),
            baseline_usd=usd[1].astype(np.float64),
        )

    def save(self, path: Path) -> None:
        """Write the file; its folder is made where it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {field.name: np.asarray(getattr(self, field.name) or "") for field in fields(self)[:4]}
        arrays = {field.name: getattr(self, field.name) for field in fields(self)[4:]}
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **values, **arrays)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file.

        Raises:
            CalibrationError: It is missing or broken.
        """
        try:
            arrays = read_arrays(path)
            values = {field.name: arrays[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError) as exc:
            raise CalibrationError(
                f"{path}: not a readable calibration: {exc}. Make it again: smallfirst calibrate"
            ) from exc
        words = {name: str(values.pop(name)) for name in ("model", "baseline", "artefact", "created")}
        return cls(words["model"], words["baseline"] or None, words["artefact"], words["created"], **values)


def calibration_path(folder: Path, model: str) -> Path:
    """Return where a model's calibration is kept; slashes in names are no folders."""
    return folder / f"{model.replace('/', '_')}{SUFFIX}"
