"""Adds records up: one pass over the rows, then sums of sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .facts import ESTIMATED, FELL_BACK, Columns, Label
from .reading import Facts, Floats, Ints


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals of some entries.

    Attributes:
        key: The group's values by name; empty for the total.
        fallbacks: Requests that a second model answered because the first failed.
        unknown_cost: Requests whose price is not known; they are in no sum of money.
        estimated: Requests whose token counts are our estimate.
        cost_usd: Sum of the known costs, comparisons with the baseline included.
        shadows: Calls of our own in the background: comparisons with the baseline, and answers of the cache asked
            again. They are no requests, but cost money.
        shadow_usd: Their share of `cost_usd`.
        baseline_usd: What the baseline model would have cost, over requests where both costs are known.
        saved_usd: `baseline_usd` less the cost of the same requests.
        saved_share: Of `baseline_usd`; None where that is 0.
        local_share: Requests that a local model answered, of those that a model answered.
        cache_share: Requests answered from the cache, of all that were answered.
        latency_ms: 50th, 95th and 99th percentile; None without an answered request.
        cpu_seconds, energy_wh, gco2e: Sums of what is known; of `unknown_energy` entries the energy is not known, of
            `unknown_gco2e` the carbon dioxide.
        escalations: Answers that were not good enough, so that another model was asked, by why.
        retries: How often a model was tried again within its attempt.
        discarded_usd: Paid for answers that were not good enough or not needed.
        abandoned_usd: Paid for attempts that failed, or whose caller left.
        exact_hits, semantic_hits: Answers from the cache to equal requests, and to such in other words.
        feedback: Requests with feedback; `feedback_score` is its mean (1: right), None without.
        compared: Comparisons with the baseline; `compared_loss` is the mean loss, None without.
        ttft_ms: Until the first chunk of a stream; None without a stream.
    """

    key: Mapping[str, str]
    requests: int
    errors: int
    cancelled: int
    fallbacks: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    estimated: int
    cost_usd: float
    unknown_cost: int
    baseline_usd: float
    saved_usd: float
    saved_share: float | None
    cache_hits: int
    cache_share: float | None
    local_share: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    latency_ms_p99: float | None
    overhead_ms_p50: float | None
    shadows: int = 0
    shadow_usd: float = 0.0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cpu_seconds: float = 0.0
    energy_wh: float = 0.0
    unknown_energy: int = 0
    gco2e: float = 0.0
    unknown_gco2e: int = 0
    escalations: Mapping[str, int] = field(default_factory=dict)
    retries: int = 0
    discarded_usd: float = 0.0
    abandoned_usd: float = 0.0
    exact_hits: int = 0
    semantic_hits: int = 0
    feedback: int = 0
    feedback_score: float | None = None
    compared: int = 0
    compared_loss: float | None = None
    ttft_ms_p50: float | None = None
    ttft_ms_p95: float | None = None


# Sums of a cell, in this order; of money first the billionths of a dollar, then what is left of each amount.
_MONEY = ("cost", "baseline", "paid", "discarded", "abandoned")
_PLAIN = (
    "count", "unknown_cost", "estimated", "fell_back", "input", "cached", "cache_write", "output", "reasoning",
    "retries", "cpu", "energy", "unknown_energy", "gco2e", "unknown_gco2e",
)  # fmt: skip
# So many cells are looked at one by one; of more, those that hold anything are found by sorting, which is slower.
_DENSE = 5_000_000
_PERCENTILES = {"duration": (50, 95, 99), "overhead": (50,), "ttft": (50, 95)}
_OUTCOMES = ("feedback", "score", "compared", "loss")
_AT = {name: at for at, name in enumerate(_PLAIN + _OUTCOMES)}

_PROPERTIES: Mapping[str, Callable[[Label], bool]] = {
    "request": lambda label: label.kind == "request",
    "ours": lambda label: label.kind != "request",
    "ok": lambda label: label.status == "ok",
    "error": lambda label: label.status == "error",
    "cancelled": lambda label: label.status == "cancelled",
    "local": lambda label: label.route == "local",
    "cloud": lambda label: label.route == "cloud",
    "cache": lambda label: label.route == "cache",
    "exact": lambda label: label.cache == "exact",
    "semantic": lambda label: label.cache == "semantic",
    "escalated": lambda label: bool(label.escalations),
}


class Cells:
    """Facts added up by label, and by another number of each row (a day's) where one is given.

    Money is exact enough that a million amounts differ from `math.fsum` by less than 1e-9 dollars: whole billionths of
    a dollar are added as integers (up to nine million dollars in all), the remainders apart.

    Attributes:
        size: How many cells there are: those that hold anything.
        labels, label_at: All labels, and the place of each cell's, shape (cells).
        part: The other number of each cell, shape (cells).
        has: By property of a label, which cells have it, shape (cells).
        sums: By name in `_AT`, what is no money, shape (names, cells).
        money: By name in `_MONEY`, the whole billionths and what is left, shape (cells) each.
    """

    def __init__(
        self, facts: Facts, part: Ints | None = None, outcome_part: Ints | None = None, *, first_part: int = 0
    ) -> None:
        labels = len(facts.labels)
        parts = 1 if part is None else 1 + int(max(part.max(initial=0), _most(outcome_part)))
        row_cell = facts.label if part is None else part * labels + facts.label
        outcomes = facts.outcomes
        outcome_cell = outcomes.label if outcome_part is None else outcome_part * labels + outcomes.label
        used, self._cell, outcome_place = _used(row_cell, outcome_cell, labels * parts)
        self.size = len(used)
        self.label_at = used % labels
        self.labels = facts.labels
        self.has = {
            name: np.array([holds(label) for label in facts.labels], dtype=bool)[self.label_at]
            for name, holds in _PROPERTIES.items()
        }
        self.part = used // labels + first_part
        self._facts = facts
        self.sums = self._plain(facts.rows, outcome_place)
        self.money = self._amounts(facts.rows)
        self._timings = _Timings(facts.rows, self._cell, self.size)

    @property
    def counts(self) -> list[int]:
        """Entries of each cell."""
        return [round(value) for value in self.sums[_AT["count"]].tolist()]

    def cost(self, cells: Ints) -> float:
        """Return the known costs of some cells, in US dollars."""
        return _Chosen(self, cells).money("cost")

    def summary(self, key: Mapping[str, str], cells: Ints) -> Summary:
        """Return the totals of some cells."""
        of = _Chosen(self, cells)
        answered = of.where("request").where("ok")
        timed = self._timings.of(answered.cells)
        baseline, saved = of.money("baseline"), of.money("baseline", "paid")
        requests, ours = of.where("request"), of.where("ours")
        hits = requests.where("cache")
        local = answered.where("local").count("count")
        by_models = local + answered.where("cloud").count("count")
        feedback, compared = requests.count("feedback"), requests.count("compared")
        return Summary(
            key=key,
            requests=requests.count("count"),
            errors=requests.where("error").count("count"),
            cancelled=requests.where("cancelled").count("count"),
            fallbacks=requests.count("fell_back"),
            input_tokens=of.count("input"),
            cached_tokens=of.count("cached"),
            output_tokens=of.count("output"),
            estimated=requests.count("estimated"),
            cost_usd=of.money("cost"),
            unknown_cost=of.count("unknown_cost"),
            baseline_usd=baseline,
            saved_usd=saved,
            saved_share=saved / baseline if baseline > 0 else None,
            cache_hits=hits.count("count"),
            cache_share=_ratio(hits.count("count"), answered.count("count")),
            local_share=_ratio(local, by_models),
            latency_ms_p50=timed["duration"][0],
            latency_ms_p95=timed["duration"][1],
            latency_ms_p99=timed["duration"][2],
            overhead_ms_p50=timed["overhead"][0],
            shadows=ours.count("count"),
            shadow_usd=ours.money("cost"),
            cache_write_tokens=of.count("cache_write"),
            reasoning_tokens=of.count("reasoning"),
            cpu_seconds=of.plain("cpu"),
            energy_wh=of.plain("energy"),
            unknown_energy=of.count("unknown_energy"),
            gco2e=of.plain("gco2e"),
            unknown_gco2e=of.count("unknown_gco2e"),
            escalations=requests.escalations(),
            retries=of.count("retries"),
            discarded_usd=of.money("discarded"),
            abandoned_usd=of.money("abandoned"),
            exact_hits=hits.where("exact").count("count"),
            semantic_hits=hits.where("semantic").count("count"),
            feedback=feedback,
            feedback_score=_ratio(requests.plain("score"), feedback),
            compared=compared,
            compared_loss=_ratio(requests.plain("loss"), compared),
            ttft_ms_p50=timed["ttft"][0],
            ttft_ms_p95=timed["ttft"][1],
        )

    def _plain(self, rows: Columns, outcome_cell: Ints) -> Floats:
        """Return the sums that are no money, shape (names in `_AT`, cells)."""
        cell, size, outcomes = self._cell, self.size, self._facts.outcomes

        def of(values: npt.NDArray[np.generic]) -> Floats:
            return sums(cell, values.astype(np.float64), size)

        def after(values: Floats, where: npt.NDArray[np.bool_]) -> Floats:
            return sums(outcome_cell[where], values[where], size)

        score, loss = outcomes.score, outcomes.loss
        rated, compared = outcomes.feedback & ~np.isnan(score), ~outcomes.feedback & ~np.isnan(loss)
        ones = np.ones(len(score))
        energy, gco2e = rows["energy"], rows["gco2e"]
        columns = {
            "count": np.bincount(cell, None, size).astype(np.float64),
            "unknown_cost": of(np.isnan(rows["cost"])),
            "estimated": of(rows["flags"] & ESTIMATED > 0),
            "fell_back": of(rows["flags"] & FELL_BACK > 0),
            **{
                name: of(rows[name])
                for name in ("input", "cached", "cache_write", "output", "reasoning", "retries")
            },
            "cpu": of(np.nan_to_num(rows["cpu"])),
            "energy": of(np.nan_to_num(energy)),
            "unknown_energy": of(np.isnan(energy)),
            "gco2e": of(np.nan_to_num(gco2e)),
            "unknown_gco2e": of(np.isnan(gco2e)),
            "feedback": after(ones, rated),
            "score": after(score, rated),
            "compared": after(ones, compared),
            "loss": after(loss, compared),
        }
        return np.stack([columns[name] for name in _AT])

    def _amounts(self, rows: Columns) -> Mapping[str, tuple[Floats, Floats]]:
        cost, baseline = rows["cost"], rows["baseline"]
        # Only what is known on both sides can be compared.
        both = ~(np.isnan(cost) | np.isnan(baseline))
        amounts = {
            "cost": np.nan_to_num(cost),
            "baseline": np.where(both, baseline, 0.0),
            "paid": np.where(both, cost, 0.0),
            "discarded": rows["discarded"],
            "abandoned": rows["abandoned"],
        }
        return {name: exact_sums(self._cell, amounts[name], self.size) for name in _MONEY}


def _used(rows: Ints, outcomes: Ints, possible: int) -> tuple[Ints, Ints, Ints]:
    """Return the cells that hold anything, and the places among them of the rows' and of the outcomes' cells."""
    if possible <= _DENSE:
        present = np.zeros(possible, dtype=bool)
        present[rows] = True
        present[outcomes] = True
        place = np.cumsum(present) - 1
        return np.flatnonzero(present), place[rows], place[outcomes]
    # Labels times days may be many more than there are rows.
    used, place = np.unique(np.concatenate([rows, outcomes]), return_inverse=True)
    return used, place[: len(rows)], place[len(rows) :]


def sums(cell: Ints, values: npt.NDArray[np.float64], size: int) -> Floats:
    """Return the sum of the values of each cell."""
    return np.asarray(np.bincount(cell, values, size), dtype=np.float64)


def exact_sums(cell: Ints, amounts: npt.NDArray[np.float64], size: int) -> tuple[Floats, Floats]:
    """Return sums by cell as whole billionths, and what is left."""
    whole = np.rint(amounts * 1e9)
    return sums(cell, whole, size), sums(cell, amounts - whole * 1e-9, size)


class _Chosen:
    """Some of the cells."""

    def __init__(self, all_cells: Cells, cells: Ints) -> None:
        self._all = all_cells
        self.cells = cells

    def where(self, name: str) -> _Chosen:
        """Return those whose label has a property of `_PROPERTIES`."""
        return _Chosen(self._all, self.cells[self._all.has[name][self.cells]])

    def plain(self, name: str) -> float:
        return float(self._all.sums[_AT[name], self.cells].sum())

    def count(self, name: str) -> int:
        return round(self.plain(name))

    def money(self, name: str, less: str | None = None) -> float:
        whole, rest = self._amount(name)
        if less is not None:
            off, off_rest = self._amount(less)
            whole, rest = whole - off, rest - off_rest
        # Whole billionths are exact as integers; only this step rounds.
        return whole / 1e9 + rest

    def _amount(self, name: str) -> tuple[float, float]:
        whole, rest = self._all.money[name]
        return float(whole[self.cells].sum()), float(rest[self.cells].sum())

    def escalations(self) -> Mapping[str, int]:
        counts = self._all.sums[_AT["count"]]
        found: Counter[str] = Counter()
        for at in self.where("escalated").cells.tolist():
            for _, why in self._all.labels[self._all.label_at[at]].escalations:
                found[why] += round(counts[at])
        return dict(found.most_common())


class _Timings:
    """Times of rows, sorted by cell."""

    def __init__(self, rows: Columns, cell: Ints, size: int) -> None:
        # A sort of 16 bits is one of radix, and ten times as fast.
        order = np.argsort(cell.astype(np.uint16) if size < 2**16 else cell, kind="stable")
        self._values = {name: rows[name][order] for name in _PERCENTILES}
        self._lengths = np.bincount(cell, None, size)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def of(self, cells: Ints) -> Mapping[str, tuple[float | None, ...]]:
        """Return the percentiles of each time; None where there are none."""
        rows = spread(self._starts, self._lengths, cells)
        return {name: _percentiles(values[rows], _PERCENTILES[name]) for name, values in self._values.items()}


def spread(starts: Ints, lengths: Ints, wanted: Ints) -> Ints:
    """Return where the elements of some lists are that stand one after the other.

    Args:
        starts, lengths: Of each list, shape (L).
        wanted: Which lists, in this order.
    """
    own = lengths[wanted]
    before = np.cumsum(own) - own
    places: Ints = np.arange(int(own.sum())) + np.repeat(starts[wanted] - before, own)
    return places


def _percentiles(values: npt.NDArray[np.float32], wanted: tuple[int, ...]) -> tuple[float | None, ...]:
    values = values[~np.isnan(values)]
    if not len(values):
        return (None,) * len(wanted)
    # The values are a copy already.
    return tuple(float(value) for value in np.percentile(values, wanted, overwrite_input=True))


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _most(values: Ints | None) -> int:
    return 0 if values is None else int(values.max(initial=0))
