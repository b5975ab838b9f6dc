"""How well a baseline's answer lengths are predicted for requests that another model answered, on published outcomes.

RouterBench's costs tell the tokens: every model's were counted alike and the prices are known, so the costs on a prompt
give its tokens and each answer's. Where several solutions fit, that with the longest prompt is taken whose answers
all have a token: the answers may then be a few tokens too short, each row's by the same number. Run it with
`python -m smallfirst.evals.answer_lengths FILE`, FILE being an outcome file with these models' costs; it prints JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from smallfirst.policies.types import TaskKind
from smallfirst.router.money.expected import Asked, ExpectedCost
from smallfirst.router.settings import CloudModelSettings
from smallfirst.router.training.files import read_rows
from smallfirst.router.wire import Usage

BASELINE = "gpt-4-1106-preview"
# US dollars a million tokens, input and output, as the costs were made.
_PRICES: Mapping[str, tuple[float, float]] = {
    BASELINE: (10, 30), "gpt-3.5-turbo-1106": (1, 2), "claude-v1": (8, 24), "claude-v2": (8, 24),
    "claude-instant-v1": (0.8, 2.4), "meta/llama-2-70b-chat": (0.9, 0.9), "mistralai/mixtral-8x7b-chat": (0.6, 0.6),
    "zero-one-ai/Yi-34B-Chat": (0.8, 0.8), "WizardLM/WizardLM-13B-V1.2": (0.3, 0.3),
    "meta/code-llama-instruct-34b-chat": (0.776, 0.776), "mistralai/mistral-7b-chat": (0.2, 0.2),
}  # fmt: skip
_KINDS: Mapping[str, TaskKind] = {"mbpp": "code", "arc_challenge": "knowledge", "winogrande": "knowledge"}


# A number of tokens that is farther from whole than this is none: prices and prompt do not fit.
_ODD = 1e-3
# Of requests, those that the other model answers; of these, those that the baseline is asked as well.
LOCAL_SHARE = 0.5
SEEDS = range(10)


_MODELS = tuple(
    CloudModelSettings(name=name, kind="openai", base_url="http://127.0.0.1:9") for name in _PRICES
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt's tokens, and each model's answer's."""

    subset: str
    task: TaskKind
    tokens: int
    answers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """How far predictions were off, over requests that the baseline had not answered when they were predicted.

    Attributes:
        actual, predicted: Mean tokens.
        bias: Sum predicted by sum actual.
        bias_warm: Likewise, without the first few, for which the other's own count had to stand.
        bias_corrected: Of these, once predictions are put right by their errors on the baseline's own answers, as
            savings are.
        mae: Mean absolute error, in tokens.
        mae_own_count: Of taking the other model's own count for the baseline's.
        bias_own_count: Likewise.
    """

    n: int
    actual: float
    predicted: float
    bias: float
    bias_warm: float
    bias_corrected: float
    mae: float
    bias_own_count: float
    mae_own_count: float


def tokens_of(costs: Mapping[str, float]) -> tuple[int, dict[str, int]] | None:
    """Return (prompt tokens, answer tokens by model) that these costs in US dollars say; None where none fit."""
    dear, (price_in, price_out) = costs[BASELINE] * 1e6, _PRICES[BASELINE]
    for answer in range(1, int(dear / price_out) + 1):
        prompt = (dear - answer * price_out) / price_in
        if abs(prompt - round(prompt)) > _ODD:
            continue
        answers = {n: (costs[n] * 1e6 - round(prompt) * p_in) / p_out for n, (p_in, p_out) in _PRICES.items()}
        if all(abs(tokens - round(tokens)) < _ODD and round(tokens) >= 1 for tokens in answers.values()):
            return round(prompt), {name: round(tokens) for name, tokens in answers.items()}
    return None


def read(path: Path) -> list[Prompt]:
    """Return the prompts of an outcome file whose tokens its costs tell."""
    found = []
    for row in read_rows(path):
        known = tokens_of(json.loads(row["costs"])) if row["subset"] in _KINDS else None
        if known is not None:
            found.append(Prompt(str(row["subset"]), _KINDS[row["subset"]], *known))
    return found


def evaluate(
    prompts: Sequence[Prompt], other: str, *, shadow: float, seeds: Sequence[int] = SEEDS
) -> Figures:
    """Predict the baseline's answers for requests that another model answers, each from earlier requests only.

    Args:
        prompts: In any order: it is drawn anew for each seed.
        other: Who answers half of them; the baseline answers the rest, and is learned from.
        shadow: Share of the other's that the baseline is asked as well.
        seeds: Of orders and draws.
    """
    rows: list[tuple[float, float, float, bool]] = []
    checks: list[tuple[float, float]] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        expected = ExpectedCost(_MODELS, lambda _model, _usage: None)
        for at in rng.permutation(len(prompts)):
            prompt = prompts[at]
            actual, usage = prompt.answers[BASELINE], Usage(prompt.tokens, prompt.answers[other])
            drawn = rng.random()
            if drawn < LOCAL_SHARE:
                asked = Asked(prompt.task, None, "", "")
                guessed = expected.instead(BASELINE, asked, other, usage)
                warm = expected.predicted_tokens(BASELINE, prompt.task, None) is not None
                rows.append((actual, guessed.output_tokens, usage.output_tokens, warm))
                if drawn < LOCAL_SHARE * shadow:
                    expected.paired(
                        BASELINE, prompt.task, own=actual, other=other, others=usage.output_tokens
                    )
            else:
                own = Usage(prompt.tokens, actual)
                guess = expected.predicted_tokens(BASELINE, prompt.task, None)
                if guess is not None:
                    checks.append((actual, guess))
                expected.answered(BASELINE, prompt.task, usage=own, tenant="", session="")
    actual_, predicted, own_count, flags = np.array(rows).T
    warm_rows = flags > 0
    needed, guesses = np.array(checks).sum(axis=0)
    ratio = float(needed / guesses)
    return Figures(
        n=len(rows),
        actual=float(actual_.mean()),
        predicted=float(predicted.mean()),
        bias=float(predicted.sum() / actual_.sum()),
        bias_warm=float(predicted[warm_rows].sum() / actual_[warm_rows].sum()),
        bias_corrected=float(predicted[warm_rows].sum() / actual_[warm_rows].sum() * ratio),
        mae=float(np.abs(predicted - actual_).mean()),
        bias_own_count=float(own_count.sum() / actual_.sum()),
        mae_own_count=float(np.abs(own_count - actual_).mean()),
    )


def main(path: Path) -> None:
    """Print the figures as one JSON object."""
    prompts = read(path)
    code = [prompt for prompt in prompts if prompt.task == "code"]
    report = {
        f"{other}, {share:.0%} shadowed, {name}": asdict(evaluate(of, other, shadow=share))
        for other in ("mistralai/mistral-7b-chat", "zero-one-ai/Yi-34B-Chat", "gpt-3.5-turbo-1106")
        for share in (0.0, 0.1)
        for name, of in (("all", prompts), ("code", code))
    }
    print(json.dumps({"prompts": len(prompts), "figures": report}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
