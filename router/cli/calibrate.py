"""`smallfirst calibrate`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Absolute, as in `evals`, which this module hands its values to: a type checker takes the two spellings for two types.
from smallfirst.router.settings import Settings

from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--model", required=True, help="A configured model, by name.")
@click.option(
    "--data",
    "suites",
    multiple=True,
    metavar="SUITE|FILE",
    help="What to run it on: a suite of `eval suite`, or a Parquet or JSON lines file with id, subset, request, "
    "checker and expected. Repeatable.  [default: simple]",
)
@click.option(
    "--baseline",
    help="Run this configured model, too, and hold the answers against its. Without it the baseline counts as always "
    "right, which never underestimates what is lost.",
)
@click.option(
    "--outcomes", type=FILE, help="Run nothing: read the outcomes of --model (and --baseline) from a file."
)
@click.option("--limit", type=click.IntRange(1), help="At most so many rows of each suite.")
@click.option("--seed", default=0, show_default=True, help="Draws other rows.")
@click.option(
    "--concurrency", default=4, show_default=True, type=click.IntRange(1, 64), help="Rows at a time."
)
@click.option(
    "--fresh", is_flag=True, help="Ask again what was asked before: the model, or the rows, are not the same."
)
@click.option("--out", type=FILE, help="Where to write.  [default: where the settings look for it]")
@json_option
@click.pass_obj
def calibrate(
    load: Callable[[], Settings],
    /,
    model: str,
    baseline: str | None,
    outcomes: Path | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Place a model: run it on scored prompts (a hundred place it, a risk budget wants more) and keep what came of it.

    The gateway then scores requests by this model's own outcomes, and policies with `max_quality_loss` choose their
    thresholds by them. A run that was interrupted goes on where it was.
    """
    from smallfirst.evals.calibration import calibration_of_file, calibration_report
    from smallfirst.router.risk import configured_ability
    from smallfirst.router.risk.calibration import calibration_path
    from smallfirst.router.scoring import Scorer

    settings = load()
    spec = settings.model_named(model)
    scorer = Scorer.load()
    out = out or calibration_path(settings.calibrations, model)
    if outcomes is not None:
        found = calibration_of_file(outcomes, model, scorer, baseline=baseline)
    else:
        found = _measured(settings, scorer, model, baseline, out, options)
    found.save(out)
    against = settings.baseline_model or spec
    confidence = settings.policy_named(settings.policy).confidence
    report = calibration_report(found, scorer, configured_ability(against, scorer), confidence=confidence)
    if as_json:
        click.echo(json.dumps(report | {"out": str(out)}))
        return
    click.echo("\n".join(_lines(report, confidence)))
    click.echo(f"wrote {out}; the gateway reads it at its next start")


def _measured(
    settings: Settings, scorer: Any, model: str, baseline: str | None, out: Path, options: dict[str, Any]
) -> Any:
    from smallfirst.evals.calibration import calibration_of_run, calibration_rows
    from smallfirst.router.training.files import data_folder

    suites = options["suites"] or ("simple",)
    rows = calibration_rows(suites, data_folder(), limit=options["limit"], seed=options["seed"])

    kept = out.with_suffix(".outcomes.jsonl")
    if options["fresh"]:
        kept.unlink(missing_ok=True)

    def run(name: str) -> list[dict[str, Any]]:
        return _run(settings, name, rows, kept, options["concurrency"])

    against = None if baseline is None else (settings.model_named(baseline).name, run(baseline))
    return calibration_of_run(model, rows, run(model), scorer, baseline=against)


def _run(settings: Settings, name: str, rows: list[Any], out: Path, concurrency: int) -> list[dict[str, Any]]:
    from smallfirst.evals.outcomes import collect
    from smallfirst.router.models import make_models

    spec = settings.model_named(name)
    engine = make_models(settings.model_copy(update={"models": (spec,)}))[name]
    with click.progressbar(length=len(rows), label=name, file=sys.stderr) as bar:
        return asyncio.run(
            collect(engine, rows, out, progress=lambda: bar.update(1), concurrency=concurrency)
        )


def _lines(report: dict[str, Any], confidence: float) -> list[str]:
    against = report["baseline"] or "nobody: the baseline counts as always right"
    lines = [
        f"{report['model']}: right on {report['accuracy']:.3f} of {report['n']} rows, held against {against}",
        f"its P(right), placed without the row in question, is off by {report['expected_calibration_error']:.3f} "
        f"on average; {report['known_share']:.0%} of the requests are like what the classifier has seen",
        f"what a risk budget would come to, at confidence {confidence:g}, on requests like these:",
        f"{'max_quality_loss':>17} {'local':>6} {'both':>6} {'loss':>7} {'bound':>7}",
    ]
    for of in report["budgets"]:
        if not of["met"]:
            lines.append(f"{of['budget']:>17} nothing stays local: {of['reason']}")
            continue
        lines.append(
            f"{of['budget']:>17} {of['local_share']:>6.1%} {of['escalated_share']:>6.1%} {of['loss']:>7.4f} "
            f"{of['bound']:>7.4f}"
        )
    return lines
