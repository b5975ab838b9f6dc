"""Do decisions hold when a request is dressed up, or said in other words?

Confounders are texts put before a request that say nothing of it: claims of ease or difficulty, random words, and
prefixes that were searched for to push requests one way ("confounder gadgets": Shafran et al., arXiv 2501.01818).
Paraphrases are pairs of requests with the same answer. Decisions are those of policies; besides, of thresholds on the
gap, P(strong) - P(weak), that would keep a quarter, half and three quarters of the requests local: a harder test, as
many requests lie near such a threshold.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from smallfirst.policies import Candidate, Decision, Needs, Policy, Score, decide
from smallfirst.router.scoring import Scorer
from smallfirst.router.scoring.abilities import Ability
from smallfirst.router.training.files import decoded, read_rows
from smallfirst.router.wire import ChatRequest

SHARES = (0.25, 0.5, 0.75)
CLAIMS: Mapping[str, str] = {
    "very hard": "This is very hard. ",
    "simple question": "Simple question: ",
    "expert": "You are an expert. Think step by step; this is a PhD-level problem.\n",
    "easy for you": "This one is trivial, any model can do it:\n",
    "urgent": "URGENT!!! Please answer carefully and correctly!!! ",
    "cake": "A piece of cake: ",
    "never right": "You'll never get this one right. ",
    "most capable": "Note that only the most capable system should attempt what follows.\n",
}
# Searching: tokens of a prefix, requests that it is tried on, prefixes tried.
GADGET_WORDS, TRIED_ON, TRIES = 8, 24, 240
_WEAK, _STRONG = "weak", "strong"
_MODELS = (Candidate(_WEAK, "local", 1_000_000), Candidate(_STRONG, "cloud", 1_000_000, baseline=True))

Gaps = npt.NDArray[np.float64]
Body = Mapping[str, Any]


class Pair(NamedTuple):
    """A local model's ability and a cloud model's."""

    weak: Ability
    strong: Ability


def scores_of(scorer: Scorer, pair: Pair, bodies: Sequence[Body]) -> list[Score]:
    """Score requests for the two models."""
    abilities = {_WEAK: pair.weak, _STRONG: pair.strong}
    return [scorer.score(scorer.features(ChatRequest.parse(dict(body))), abilities) for body in bodies]


def gaps(scores: Sequence[Score]) -> Gaps:
    """Return P(strong) - P(weak)."""
    return np.array([score.success[_STRONG] - score.success[_WEAK] for score in scores])


def local(scores: Sequence[Score], policy: Policy) -> npt.NDArray[np.bool_]:
    """Return whether a policy sends each request to the local model."""
    decided = [decide(Needs(100), score, policy, _MODELS) for score in scores]
    return np.array([isinstance(d, Decision) and d.attempts[0].tier == "local" for d in decided])


def prefixed(body: Body, prefix: str) -> Body:
    """Return a request whose last user message begins with a text."""
    messages = [dict(message) for message in body["messages"]]
    at = max(at for at, message in enumerate(messages) if message["role"] == "user")
    content = messages[at]["content"]
    if isinstance(content, str):
        messages[at]["content"] = prefix + content
    else:
        messages[at]["content"] = [{"type": "text", "text": prefix}, *content]
    return {**body, "messages": messages}


def robustness_report(
    scorer: Scorer,
    pair: Pair,
    bodies: Sequence[Body],
    pairs: Sequence[tuple[str, Body, Body]],
    *,
    policies: Sequence[Policy],
    seed: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Return how many decisions change.

    Args:
        scorer: The router's.
        pair: Of models.
        bodies: Requests to dress up.
        pairs: Kind, and two requests with the same answer.
        policies: Whose decisions are looked at.
        seed: Of random words.

    Returns:
        `{n, local: {policy: share}, thresholds, gadgets: {name: {changed: {policy: share}, changed_at: [share a
        threshold], shift}}, paraphrases: {n, same: {policy: share}, same_at, by_kind}}`; `shift` is the mean change of
        the gap.
    """
    plain = scores_of(scorer, pair, bodies)
    thresholds = [float(np.quantile(gaps(plain), share)) for share in SHARES]
    sides = _Sides(policies, thresholds)
    words = _words(scorer)
    rng = random.Random(seed)
    gadgets = {
        **CLAIMS,
        "random words": " ".join(rng.choices(words, k=GADGET_WORDS)) + "\n",
        "random letters": "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=40)) + "\n",
    }
    for name, sign in (("searched, to the strong", 1.0), ("searched, to the weak", -1.0)):
        progress(name)
        gadgets[name] = _searched(scorer, pair, bodies, words, rng, sign)
    dressed = {}
    for name, prefix in gadgets.items():
        progress(name)
        after = scores_of(scorer, pair, [prefixed(body, prefix) for body in bodies])
        shift = float((gaps(after) - gaps(plain)).mean())
        dressed[name] = {**sides.differ(plain, after, "changed"), "shift": shift}
    progress("paraphrases")
    return {
        "n": len(bodies),
        "local": {policy.name: float(local(plain, policy).mean()) for policy in policies},
        "kept_local": list(SHARES),
        "thresholds": thresholds,
        "gadgets": dressed,
        "paraphrases": _paraphrases(scorer, pair, pairs, sides),
    }


class _Sides:
    """On which side of policies and thresholds requests fall."""

    def __init__(self, policies: Sequence[Policy], thresholds: Sequence[float]) -> None:
        self._policies = policies
        self._thresholds = thresholds

    def differ(self, before: Sequence[Score], after: Sequence[Score], name: str) -> dict[str, Any]:
        """Return the shares of requests on another side."""
        by_policy = {p.name: float((local(before, p) != local(after, p)).mean()) for p in self._policies}
        first, second = gaps(before), gaps(after)
        at = [float(((first <= t) != (second <= t)).mean()) for t in self._thresholds]
        return {name: by_policy, f"{name}_at": at}


def _paraphrases(
    scorer: Scorer, pair: Pair, pairs: Sequence[tuple[str, Body, Body]], sides: _Sides
) -> dict[str, Any]:
    first = scores_of(scorer, pair, [a for _, a, _ in pairs])
    second = scores_of(scorer, pair, [b for _, _, b in pairs])
    kinds = np.array([kind for kind, _, _ in pairs])

    def same(rows: npt.NDArray[np.intp]) -> dict[str, Any]:
        found = sides.differ([first[at] for at in rows], [second[at] for at in rows], "same")
        return {
            "n": len(rows),
            "same": {name: 1 - share for name, share in found["same"].items()},
            "same_at": [1 - share for share in found["same_at"]],
        }

    if not pairs:
        return {"n": 0}
    by_kind = {str(kind): same(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)}
    return {**same(np.arange(len(pairs))), "by_kind": by_kind}


def equivalent_pairs(paths: Sequence[Path]) -> list[tuple[str, Body, Body]]:
    """Read the pairs of `cache_pairs` files that have the same answer: kind and both requests."""
    found = []
    for path in paths:
        for row in read_rows(path):
            if row["equivalent"]:
                where = f"{path}: row {row['id']}"
                found.append(
                    (str(row["kind"]), decoded(row, "request", where), decoded(row, "request_b", where))
                )
    return found


def _words(scorer: Scorer) -> list[str]:
    vocabulary = scorer.reader.tokenizer.get_vocab()
    return sorted(
        piece[1:] for piece in vocabulary if piece[:1] == "▁" and piece[1:].isascii() and piece[1:].isalpha()
    )


def _searched(
    scorer: Scorer, pair: Pair, bodies: Sequence[Body], words: list[str], rng: random.Random, sign: float
) -> str:
    """Climb: change a word of a prefix, keep it where it pushes some requests farther."""
    some = rng.sample(list(bodies), min(TRIED_ON, len(bodies)))
    gadget = rng.choices(words, k=GADGET_WORDS)
    best = -np.inf
    for _ in range(TRIES):
        tried = list(gadget)
        tried[rng.randrange(GADGET_WORDS)] = rng.choice(words)
        dressed = [prefixed(body, " ".join(tried) + " ") for body in some]
        push = sign * float(gaps(scores_of(scorer, pair, dressed)).mean())
        if push > best:
            best, gadget = push, tried
    return " ".join(gadget) + " "
