"""The pages of `smallfirst eval cache`: its reports as series, marks and tables for `evals.page`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What the lines are called. In the picture's two shares, right and low is better.
LINES = {
    "max_cache_error": "smallfirst, by max_cache_error",
    "cosine": "fixed cosine, same rules",
    "cosine_no_rules": "fixed cosine, last message only",
}
HERE = "smallfirst as set"
WRONG = "share of semantic hits wrong"


def way(name: str) -> str:
    """Return a baseline's name in words."""
    if name == "exact_only":
        return "exact only"
    least = name.removeprefix("cosine_").removesuffix("_no_rules")
    return f"cosine {least}, " + ("last message only" if name.endswith("_no_rules") else "same rules")


def traffic_page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the page of a traffic report."""
    return {
        "title": f"Semantic cache on {report['data']}, at most {report['max_error']:g} of semantic hits wrong",
        "heading": "Wrong answers and paraphrases answered",
        "x": "share of servable paraphrases answered",
        "y": WRONG,
        "frontiers": _lines(report, "servable_hit_share", lambda of: of["wrong_share"]),
        "marks": _mark(report["servable_hit_share"], report["wrong_share"], report["wrong_share_95"]),
        "reliability": [],
        "tables": [_ways(report), _tried(report), _latency(report), _traffic_kinds(report)],
    }


def pairs_page(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the page of a pair report."""
    precision = report["precision"]
    span = report["precision_95"] and (1 - report["precision_95"][1], 1 - report["precision_95"][0])
    return {
        "title": f"Semantic cache on {report['data']}, at most {report['max_error']:g} of semantic hits wrong",
        "heading": "Wrong answers and paraphrases answered",
        "x": "share of same answers accepted",
        "y": "share of accepted pairs wrong",
        "frontiers": _lines(
            report, "recall", lambda of: None if of["precision"] is None else 1 - of["precision"]
        ),
        "marks": _mark(report["recall"], None if precision is None else 1 - precision, span),
        "reliability": [],
        "tables": [_pair_ways(report), _pair_kinds(report)],
    }


def _lines(report: Mapping[str, Any], x: str, wrong: Any) -> list[dict[str, Any]]:
    found = []
    for name, tried in report["frontier"].items():
        points = [[of[x], wrong(of)] for of in tried if of[x] is not None and wrong(of) is not None]
        if points:
            found.append({"name": LINES[name], "points": sorted(points)})
    return found


def _mark(x: float | None, y: float | None, span: Any) -> list[dict[str, Any]]:
    return [] if x is None or y is None else [{"name": HERE, "x": x, "y": y, "y_95": span and list(span)}]


def _ways(report: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "exact_hits", "semantic_hits", "wrong_hits", "wrong_share", "wrong_share_upper_95", "servable",
        "servable_hit", "bypassed", "saved_usd", "saved_right_usd",
    )  # fmt: skip
    columns = [
        "way", "exact hits", "semantic hits", "wrong of these", "wrong share", "under (95 %)", "servable", "served",
        "not looked up", "US dollars saved", "without wrong answers",
    ]  # fmt: skip
    ways = {HERE: report, **{way(name): of for name, of in report["baselines"].items()}}
    rows = [[name, *(of[key] for key in names)] for name, of in ways.items()]
    cost, model = f"{report['total_usd']:.4g} US dollars", report["priced_as"]["model"]
    title = f"{report['n']} requests; all of them cost {cost} on {model}"
    return {"title": title, "columns": columns, "rows": rows}


def _tried(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("threshold", "semantic_hits", "wrong_hits", "wrong_share", "servable_hit")
    rows = [
        [
            f"max_cache_error {of['max_error']:g}" if "max_error" in of else LINES[name],
            *(of[key] for key in names),
        ]
        for name, tried in report["frontier"].items()
        for of in tried
    ]
    columns = ["way", "threshold", "semantic hits", "wrong of these", "wrong share", "servable served"]
    return {"title": "Other bounds and thresholds", "columns": columns, "rows": rows}


def _latency(report: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [name.replace("_", ", "), *(of[key] for key in ("p50", "p95", "p99"))]
        for name, of in report["lookup_ms"].items()
        if of is not None
    ]
    title = f"Look-up, milliseconds ({report['store']['name']})"
    return {"title": title, "columns": ["came to", "p50", "p95", "p99"], "rows": rows}


def _traffic_kinds(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("n", "exact_hits", "semantic_hits", "wrong_hits", "servable", "servable_hit", "bypassed")
    rows = [[kind, *(of[name] for name in names)] for kind, of in report["by_kind"].items()]
    return {
        "title": "By kind",
        "columns": ["kind", *(name.replace("_", " ") for name in names)],
        "rows": rows,
    }


def _pair_ways(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("accepted", "wrong", "precision", "recall")
    ways = {
        HERE: report,
        "the judge alone, without rules": report["text_only"],
        **{way(name): of for name, of in report["baselines"].items()},
        **{f"max_cache_error {of['max_error']:g}": of for of in report["frontier"]["max_cache_error"]},
    }
    rows = [[name, *(of[key] for key in names)] for name, of in ways.items()]
    return {"title": f"{report['n']} pairs", "columns": ["way", *names], "rows": rows}


def _pair_kinds(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("n", "equivalent", "accepted", "wrong", "exact", "semantic", "bypassed")
    rows = [
        [kind, of["scope"], *(of[name] for name in names), report["text_only"]["by_kind"][kind]["accepted"]]
        for kind, of in report["by_kind"].items()
    ]
    return {
        "title": "By kind",
        "columns": ["kind", "scope", *names, "accepted by the judge alone"],
        "rows": rows,
    }
