"""The page of `smallfirst eval routing`: its report as series, marks and tables for `evals.page`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .frontier import Replay

SHARE, DOLLARS = "share of requests to the strong model", "US dollars per 1,000 requests"
# Names in words; those of routers over many models say so.
WORDS = {"knn": "nearest neighbours", "length": "length alone", "fixed_mix": "best fixed mix"}


def routing_page(
    report: Mapping[str, Any], pair: Mapping[str, Replay], many: Mapping[str, Replay]
) -> dict[str, Any]:
    """Return the page of a report; all x are in the same unit, US dollars where costs are known.

    Args:
        report: Of `evals.routing`, without its page.
        pair: Replays between the weak and the strong model, by name.
        many: Replays over many models; empty where there are none.
    """
    priced = "usd_per_1000" in report
    scale = 1000.0 if priced else 1.0
    frontiers = [{"name": _word(name), "points": replay.points(scale)} for name, replay in pair.items()]
    frontiers += [
        {"name": f"{_word(name)}, many models", "points": replay.points(scale)}
        for name, replay in many.items()
        if name != "fixed_mix"
    ]
    kept = [[entry["cost"] * scale, entry["quality"]] for entry in report["risk_sweep"]]
    if kept:
        frontiers.append({"name": "within a risk budget", "points": sorted(kept)})
    tables = [_subsets(report), _risk(report), _sweep(report)]
    if many:
        tables += [_routers(report["many_models"]), _models(report["many_models"])]
    return {
        "title": f"Routing between {report['weak']} and {report['strong']}: {report['data']}",
        "x": DOLLARS if priced else SHARE,
        "frontiers": frontiers,
        "marks": _marks(report, pair, scale),
        "reliability": [
            {"name": name, "bins": [list(found) for found in bins]}
            for name, bins in report["reliability"].items()
        ],
        "tables": tables,
    }


def _marks(report: Mapping[str, Any], pair: Mapping[str, Replay], scale: float) -> list[dict[str, Any]]:
    ends = pair["random"].points(scale)
    marks = [
        {"name": f"always {report[which]}", "x": at[0], "y": at[1], "y_95": None}
        for which, at in (("weak", ends[0]), ("strong", ends[-1]))
    ]
    for model in report.get("many_models", {}).get("models", ()):
        marks.append(
            {
                "name": model["name"],
                "x": model["usd_per_1000"],
                "y": model["quality"],
                "y_95": model["quality_95"],
            }
        )
    return marks


def _word(name: str) -> str:
    return WORDS.get(name, name)


def _subsets(report: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, of in {**report["by_subset"], "all": report}.items():
        base = of["baselines"]
        figures = (
            of["apgr"],
            _span(of["apgr_95"]),
            of["cpt50"],
            of["cpt80"],
            of["expected_calibration_error"],
        )
        rows.append([name, of["n"], *figures, base["length"], base["knn"], base["oracle"]])
    columns = ["rows of", "n", "APGR", "95 %", "CPT50", "CPT80", "calibration error"]
    return {
        "title": "Routing",
        "columns": [*columns, "length alone", "nearest neighbours", "oracle"],
        "rows": rows,
    }


def _risk(report: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for of in report["risk"]:
        halves = of["splits"]
        over = "-" if halves is None else f"{halves['over']} of {halves['count']}"
        figures = (of["loss"], _span(of["loss_95"]), of["bound"], of["local_share"], of["saved_share"])
        rows.append([of["budget"], *figures, over, of["reason"]])
    columns = ["budget", "loss, tested", "95 %", "bound", "answered locally", "saved", "halves over", "why"]
    return {"title": "Risk budget", "columns": columns, "rows": rows}


def _sweep(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("budget", "saved_share", "loss", "quality", "strong_share")
    return {
        "title": "Budget against cost saved",
        "columns": ["budget", "saved", "loss, tested", "quality", "strong calls"],
        "rows": [[entry[name] for name in names] for entry in report["risk_sweep"]],
    }


def _routers(many: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [_word(name), of["aiq"], _span(of["aiq_95"]), of["qnc"], _span(of["qnc_95"])]
        for name, of in many["routers"].items()
    ]
    return {
        "title": "Routers over many models",
        "columns": ["router", "AIQ", "95 %", "QNC", "95 %"],
        "rows": rows,
    }


def _models(many: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "usd_per_1000", "quality", "aiq", "router_above")
    rows = [[*(of[name] for name in names), _span(of["router_above_95"])] for of in many["models"]]
    columns = ["model", "US dollars per 1,000", "quality", "AIQ", "router above it at its cost", "95 %"]
    return {"title": "Single models", "columns": columns, "rows": rows}


def _span(span: Any) -> str:
    """Return an interval in words; an end that is not there is open."""
    if span is None:
        return "-"
    low, high = ("" if end is None else f"{end:.3f}" for end in span)
    return f"{low} - {high}"
