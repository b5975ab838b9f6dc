"""What the router said of the rows that it was trained on, by classifiers and abilities that had not seen them.

The artefact carries it beside its arrays, by a hash of each row's text; other rows are scored as requests are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from smallfirst.router.arrays import read_arrays
from smallfirst.router.scoring import Features, Scorer
from smallfirst.router.scoring.abilities import Ability
from smallfirst.router.scoring.scorer import packaged_artefact
from smallfirst.router.training.files import DataError
from smallfirst.router.training.keys import row_key

from .metrics import FloatArray
from .outcome_files import Outcome


def predicted(
    outcomes: Sequence[Outcome],
    scorer: Scorer,
    abilities: Sequence[Ability],
    features: Sequence[Features] | None = None,
    *,
    artefact: Path | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return P(success) by row and model: out of fold for training rows, the shipped classifier's for the others.

    Args:
        outcomes: The rows.
        scorer: The classifier, and what reads requests.
        abilities: Of the models, see `Scorer.ability_for`.
        features: Of the rows, where they have been read.
        artefact: The classifier's file; default: the one that ships.

    Returns:
        Shape (rows, models), and 1 for each row that is out of fold, else 0.
    """
    stored = Folds.load(artefact or packaged_artefact())
    values, out_of_fold = np.zeros((len(outcomes), len(abilities))), np.zeros(len(outcomes))
    for at, outcome in enumerate(outcomes):
        row = stored.rows.get(row_key(outcome.request.body))
        if row is not None:
            values[at], out_of_fold[at] = stored.success(row, abilities), 1.0
            continue
        read = scorer.features(outcome.request) if features is None else features[at]
        skills = scorer.classifier.predict(read).skills
        values[at] = [float(ability.success(skills)) for ability in abilities]
    return values, out_of_fold


def out_of_fold_skills(artefact: Path | None = None) -> Mapping[int, FloatArray]:
    """Return the skills of the classifier's training rows, by `row_key`, as one that had not seen the row gave them.

    Args:
        artefact: The classifier's file; default: the one that ships.

    Raises:
        DataError: They cannot be read.
    """
    stored = Folds.load(artefact or packaged_artefact())
    return {key: stored.skills[at] for key, at in stored.rows.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """What classifiers and abilities said of each training row that had not seen it.

    Attributes:
        rows: Place of each row by its key.
        skills: Shape (rows, K).
        fold: Of each row.
        models: Place of each placed model by its name.
        abilities: Bias and weights by fold and model, shape (folds, models, 1 + K).
    """

    rows: Mapping[int, int]
    skills: FloatArray
    fold: npt.NDArray[np.uint8]
    models: Mapping[str, int]
    abilities: FloatArray

    @classmethod
    def load(cls, artefact: Path) -> Folds:
        """Read what stands beside an artefact.

        Raises:
            DataError: It cannot be read.
        """
        path = artefact.with_name(f"{artefact.stem}_folds.npz")
        try:
            stored = read_arrays(path)
            return cls(
                {key: row for row, key in enumerate(stored["keys"].tolist())},
                stored["skills"].astype(np.float64),
                stored["fold"],
                {name: at for at, name in enumerate(stored["models"].tolist())},
                stored["abilities"].astype(np.float64),
            )
        except (OSError, ValueError, KeyError) as exc:
            raise DataError(
                f"{path}: the classifier's out-of-fold predictions cannot be read: {exc}. "
                "Without them its training rows are not known; make them with smallfirst train"
            ) from exc

    def success(self, row: int, abilities: Sequence[Ability]) -> list[float]:
        """Return P(success) of a row by model: by the ability that was placed without the row's fold."""
        skills = self.skills[row]
        found = []
        for ability in abilities:
            at = self.models.get(ability.model)
            if at is None:
                found.append(float(ability.success(skills)))
                continue
            bias, *weights = self.abilities[self.fold[row], at]
            found.append(float(Ability(ability.model, np.array(weights), bias, 0).success(skills)))
        return found
