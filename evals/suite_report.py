"""Figures of a live run: accuracy, cost, latency and routes, overall and by task, and what its page shows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smallfirst.router.ledger.render import ms, share, usd

from .live import ERROR, RIGHT, UNSCORED, WRONG
from .metrics import FloatArray, hull, interval

KIND = "suite"
USD_PER_1000 = "US dollars per 1,000 requests"
ROUTES = ("local", "cloud", "cache")
SAMPLES = 1000

Lines = Sequence[Mapping[str, Any]]


def suite_report(lines: Lines, *, model: str, seed: int = 0, **about: Any) -> dict[str, Any]:
    """Return the report of a run.

    Args:
        lines: Of `live.run_suite`.
        model: What was asked for.
        seed: Of the bootstrap.
        about: What else the report shall say of the run: server, seed, limit.

    Returns:
        `report` ("suite"), `model`, what `about` says; the figures of `figures`, and likewise under `by_task` and
        `by_subset` ("task/subset"); `outcomes` (right or not, None for unscored and errors) and `costs` (US dollars or
        None) by "task/subset/id", which `eval compare` pairs runs by; and `page` (see `evals.page`).
    """
    by_task: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    by_subset: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_task[line["task"]].append(line)
        by_subset[f"{line['task']}/{line['subset']}"].append(line)
    report: dict[str, Any] = {
        "report": KIND,
        "model": model,
        **about,
        **figures(lines, seed=seed),
        "by_task": {name: figures(group, seed=seed) for name, group in by_task.items()},
        "by_subset": {name: figures(group, seed=seed) for name, group in sorted(by_subset.items())},
        "outcomes": {_name(line): {RIGHT: True, WRONG: False}.get(line["outcome"]) for line in lines},
        "costs": {_name(line): line.get("cost_usd") for line in lines},
    }
    return report | {"page": runs_page({model: report}, title=f"{model}: live suite")}


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['task']}/{line['subset']}/{line['id']}"


def figures(lines: Lines, *, seed: int = 0) -> dict[str, Any]:
    """Return the figures of some rows.

    Returns:
        `n` rows: `right`, `wrong`, `unscored` and `errors`; of the wrong ones `refused` by the server; `cut` off by
        the limit of tokens. `accuracy` of right and wrong ones with its 95 % bootstrap interval. `cost_usd`: the sum of
        the costs that are known, None where none is; `cost_known_share` of the rows that were answered;
        `usd_per_1000`: the mean cost of 1,000 requests, None unless every cost is known: those that are not may be the
        dear ones. Tokens, latencies in milliseconds, answers by route (servers that tell none have none) and by the
        model that answered.
    """
    outcomes = Counter(line["outcome"] for line in lines)
    replies = [line for line in lines if "latency_ms" in line]
    right = np.array([line["outcome"] == RIGHT for line in lines if line["outcome"] in (RIGHT, WRONG)], float)
    costs = [line["cost_usd"] for line in replies if line["cost_usd"] is not None]
    latencies = [line["latency_ms"] for line in replies]
    routes = Counter(line["route"] for line in replies)
    return {
        "n": len(lines),
        "right": outcomes[RIGHT],
        "wrong": outcomes[WRONG],
        "unscored": outcomes[UNSCORED],
        "errors": outcomes[ERROR],
        "refused": sum("error" in line and line["outcome"] != ERROR for line in lines),
        "cut": sum(line["finish_reason"] == "length" for line in replies),
        "accuracy": float(right.mean()) if len(right) else None,
        "accuracy_95": _interval(right, seed),
        "cost_usd": math.fsum(costs) if costs else None,
        "cost_known_share": len(costs) / len(replies) if replies else None,
        "usd_per_1000": 1000 * math.fsum(costs) / len(costs)
        if costs and len(costs) == len(replies)
        else None,
        "input_tokens": sum(line["input_tokens"] or 0 for line in replies),
        "output_tokens": sum(line["output_tokens"] or 0 for line in replies),
        "latency_p50_ms": float(np.percentile(latencies, 50)) if latencies else None,
        "latency_p95_ms": float(np.percentile(latencies, 95)) if latencies else None,
        "routes": {route: routes[route] for route in ROUTES},
        "models": dict(Counter(str(line["answered_by"]) for line in replies).most_common()),
    }


def _interval(right: FloatArray, seed: int) -> list[float] | None:
    found = len(right) and interval(
        lambda rows: float(right[rows].mean()), len(right), samples=SAMPLES, seed=seed
    )
    return list(found) if found else None


# --- pages ----------------------------------------------------------------------------------------------------


def runs_page(runs: Mapping[str, Mapping[str, Any]], *, title: str) -> dict[str, Any]:
    """Return the page of one or several runs: a mark each, the table by task, and the bill.

    One run alone has a mark for each of its tasks beside its own. With several, the line is what mixing the runs at
    random can reach: a run below it is beaten by sending some requests one way and the rest another.

    Args:
        runs: Suite reports by the name that they are shown under.
        title: Of the page.
    """
    shown = dict(runs)
    if len(runs) == 1:
        ((name, report),) = runs.items()
        shown |= {task: of for task, of in report["by_task"].items() if task != name}
    marks = [mark for name, of in shown.items() if (mark := _mark(name, of)) is not None]
    best: list[list[float]] = []
    if len(runs) > 1 and marks:
        best = hull([mark["x"] for mark in marks], [mark["y"] for mark in marks]).tolist()
    return {
        "title": title,
        "x": USD_PER_1000,
        "frontiers": [{"name": "best mix of these runs", "points": best}] if len(best) > 1 else [],
        "marks": marks,
        "reliability": [],
        "tables": [_bill(runs), *_by_task(runs)],
    }


def _mark(name: str, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """A run without a known cost or a scored row has no place in the picture; the tables still have it."""
    if of["accuracy"] is None or of["usd_per_1000"] is None:
        return None
    return {"name": name, "x": of["usd_per_1000"], "y": of["accuracy"], "y_95": of["accuracy_95"]}


def _bill(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    rows = []
    for name, of in runs.items():
        answered = sum(of["models"].values())
        routed = sum(of["routes"].values())
        rows.append(
            [
                name,
                of["n"],
                _with_interval(of),
                _usd(of["cost_usd"]),
                _usd(of["usd_per_1000"]),
                share(of["cost_known_share"]),
                share(of["routes"]["local"] / answered if routed else None),
                of["input_tokens"] + of["output_tokens"],
                ms(of["latency_p50_ms"]),
                ms(of["latency_p95_ms"]),
                of["errors"],
            ]
        )
    columns = [
        "run",
        "rows",
        "accuracy (95 %)",
        "cost, USD",
        "USD per 1,000",
        "cost known",
        "local",
        "tokens",
    ]
    return {"title": "The bill", "columns": [*columns, "p50 ms", "p95 ms", "errors"], "rows": rows}


def _by_task(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    if len(runs) > 1:
        tasks = dict.fromkeys(task for of in runs.values() for task in of["by_task"])
        rows = [[task, *(_with_interval(of["by_task"].get(task)) for of in runs.values())] for task in tasks]
        return [{"title": "Accuracy by task (95 %)", "columns": ["task", *runs], "rows": rows}]
    ((_, report),) = runs.items()
    columns = [
        "",
        "rows",
        "accuracy (95 %)",
        "unscored",
        "errors",
        "refused",
        "cut",
        "USD per 1,000",
        "p50 ms",
    ]
    tables = []
    for title, groups in (("By task", report["by_task"]), ("By subset", report["by_subset"])):
        rows = [
            [name, of["n"], _with_interval(of), of["unscored"], of["errors"], of["refused"], of["cut"],
             _usd(of["usd_per_1000"]), ms(of["latency_p50_ms"])]
            for name, of in groups.items()
        ]  # fmt: skip
        tables.append({"title": title, "columns": columns, "rows": rows})
    return tables


def _with_interval(of: Mapping[str, Any] | None) -> str:
    if of is None or of["accuracy"] is None:
        return "-"
    low, high = of["accuracy_95"]
    return f"{of['accuracy']:.3f} ({low:.3f} – {high:.3f})"


def _usd(value: float | None) -> str:
    return "unknown" if value is None else usd(value)
