"""`smallfirst eval`: measure routing quality against cost, and what local models get right."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

# Absolute, as in `evals`, which this module hands its values to: a type checker takes the two spellings for two types.
from smallfirst.router.settings import LocalModelSettings, Settings

from .evaluate_ablation import ablation
from .evaluate_cache import cache
from .evaluate_compare import compare, page
from .evaluate_pii import pii
from .evaluate_placement import placement
from .evaluate_robustness import robustness
from .evaluate_routing import FILE, routing, share
from .evaluate_suite import suite
from .options import json_option

if TYPE_CHECKING:
    from smallfirst.router.models.local.model import LocalModel

GGUF_CONTEXT_TOKENS = 8192

Found = TypeVar("Found")
Progress = Callable[[], None]


@click.group("eval", help="Measure routing quality against cost.")
def evaluate() -> None:
    """Hold the commands below."""


for _command in (routing, cache, suite, compare, page, placement, robustness, ablation, pii):
    evaluate.add_command(_command)


@evaluate.command()
@click.option("--model", required=True, help="A local model of the settings, by name.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the evaluation data. Default: SMALLFIRST_DATA, else ../shared/data.",
)
@click.option(
    "--out", required=True, type=FILE, help="JSON lines to append to; rows that it has are not run again."
)
@click.option("--simple-only", is_flag=True, help="Only the hand-written prompts, which ship.")
@click.option("--limit", type=click.IntRange(1), help="At most so many rows.")
@click.option(
    "--concurrency", default=4, show_default=True, type=click.IntRange(1, 64), help="Rows at a time."
)
@json_option
@click.pass_obj
def outcomes(
    settings: Callable[[], Settings],
    model: str,
    data: Path | None,
    out: Path,
    simple_only: bool,
    limit: int | None,
    concurrency: int,
    as_json: bool,
) -> None:
    """Run a local model over rows with a checkable answer, and keep what it got right (for `smallfirst train`)."""
    from smallfirst.evals.outcomes import collect, sample_rows, simple_rows, summary

    from ..models import make_models
    from ..training.files import data_folder

    configured = settings()
    found = configured.local_model(model)
    rows = simple_rows() + ([] if simple_only else sample_rows(data or data_folder()))
    engine: Any = make_models(cast("Any", configured))[found.name]
    with click.progressbar(length=len(rows[:limit]), label=model, file=sys.stderr) as bar:
        answers = asyncio.run(
            collect(engine, rows[:limit], out, progress=lambda: bar.update(1), concurrency=concurrency)
        )
    report = summary(model, answers)
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, group in report["by_subset"].items():
        click.echo(f"{name:50} {group['n']:5} {group['accuracy']:.3f}")
    click.echo(f"{'all':50} {report['n']:5} {report['accuracy']:.3f}")


def _local_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what commands have in common that may run a local model on some rows of each subset."""
    options = [
        click.option(
            "--gguf", type=FILE, help=f"A GGUF file, run with a context of {GGUF_CONTEXT_TOKENS} tokens."
        ),
        click.option("--model", "name", help="A local model of the settings, by name."),
        click.option("--subset", "subsets", multiple=True, help="Only this subset. Repeatable."),
        click.option("--per-subset", type=click.IntRange(1), help="At most so many rows of each subset."),
        click.option(
            "--concurrency",
            default=8,
            show_default=True,
            type=click.IntRange(1, 64),
            help="Requests at a time.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object last."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@evaluate.command()
@click.option("--data", required=True, type=FILE, help="Rows with tools; a bare name is of SMALLFIRST_DATA.")
@click.option(
    "--max-tokens",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="Of an answer; longer is cut.",
)
@_local_options
@click.pass_obj
def calls(
    load: Callable[[], Settings],
    /,
    data: Path,
    name: str | None,
    gguf: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Count a local model's right and valid function calls, and what its confidence tells of them."""
    from smallfirst.evals.calls import call_rows, calls_report, chosen, run_calls

    from ..training.files import data_file

    if (gguf is None) == (name is None):
        raise click.UsageError("Give either --gguf or --model.")
    rows = chosen(call_rows(data_file(data)), options["per_subset"], options["subsets"])
    model = _local_model(load(), name, gguf, options["concurrency"])

    async def ask(progress: Progress) -> list[Any]:
        limits = {key: options[key] for key in ("concurrency", "max_tokens")}
        return await run_calls(model, rows, progress=progress, **limits)

    found = _run(model, len(rows), ask)
    report = {"model": model.name, "data": data.name, **calls_report(found)}
    click.echo(json.dumps(report) if as_json else "\n".join(_calls_table(report)))


@evaluate.command()
@click.option("--data", required=True, type=FILE, help="Rows with labels; a bare name is of SMALLFIRST_DATA.")
@click.option(
    "--classifier", "classifiers", multiple=True, type=FILE, help="Made by `train classifier`. Repeatable."
)
@click.option(
    "--train-pool", "pool", type=FILE, help="Examples to train classifiers on first, test texts left out."
)
@_local_options
@click.pass_obj
def classify(load: Callable[[], Settings], /, data: Path, as_json: bool, **options: Any) -> None:
    """Measure accuracy and calibration of classifiers, or of a local model that labels texts."""
    from smallfirst.evals.calls import chosen
    from smallfirst.evals.classification import classification_report, intent_rows

    from ..training.files import data_file

    ways = [options[way] for way in ("classifiers", "pool", "name", "gguf")]
    if sum(bool(way) for way in ways) != 1:
        raise click.UsageError("Give one of --classifier, --train-pool, --model and --gguf.")
    known = intent_rows(data_file(data))
    rows = chosen(known, options["per_subset"], options["subsets"])
    if options["name"] or options["gguf"]:
        model = _local_model(load(), options["name"], options["gguf"], options["concurrency"])
        by, guesses, trained = model.name, _labelled(model, rows, options["concurrency"]), None
    else:
        by, guesses, trained = _by_classifiers(known, rows, options["classifiers"], options["pool"])
    report = {"by": by, "data": data.name, **classification_report(rows, guesses, trained)}
    click.echo(json.dumps(report) if as_json else "\n".join(_classification_table(report)))


def _labelled(model: LocalModel, rows: list[Any], concurrency: int) -> list[Any]:
    from smallfirst.evals.classification import guesses_of_model

    async def ask(progress: Progress) -> list[Any]:
        return await guesses_of_model(model, rows, concurrency=concurrency, progress=progress)

    return _run(model, len(rows), ask)


def _by_classifiers(
    known: list[Any], rows: list[Any], files: tuple[Path, ...], pool: Path | None
) -> tuple[Any, list[Any], dict[Any, Any] | None]:
    """Return what is measured, in words, the guesses, and what was trained."""
    from smallfirst.evals.classification import (
        guesses_of_heads,
        guesses_of_trained,
        load_heads,
        train_on_pool,
    )

    from ..training.files import data_file

    if pool is None:
        return [file.name for file in files], guesses_of_heads(rows, load_heads(files)), None
    wanted = list(dict.fromkeys(row.labels for row in rows))
    trained = train_on_pool(data_file(pool), known, wanted, progress=lambda step: click.echo(step, err=True))
    return f"trained on {pool.name}", guesses_of_trained(rows, trained), trained


def _local_model(settings: Settings, name: str | None, gguf: Path | None, concurrency: int) -> LocalModel:
    from smallfirst.router.models.local.model import LocalModel

    if gguf is None:
        spec = settings.local_model(name or "")
    else:
        spec = LocalModelSettings.of_file(gguf, context_tokens=GGUF_CONTEXT_TOKENS)
    # All may wait at once.
    spec = spec.model_copy(update={"max_queue": max(spec.max_queue, concurrency)})
    return LocalModel(spec, models_dir=settings.models_dir)


def _run(model: LocalModel, length: int, ask: Callable[[Progress], Awaitable[Found]]) -> Found:
    """Load a model, have it asked with a progress bar on standard error, and free it."""

    async def run() -> Found:
        try:
            await model.start()
            with click.progressbar(length=length, label=model.name, file=sys.stderr) as bar:
                return await ask(lambda: bar.update(1))
        finally:
            await model.aclose()

    return asyncio.run(run())


def _calls_table(report: dict[str, Any]) -> list[str]:
    lines = [f"{'':24} {'n':>5} {'right':>6} {'accuracy':>8} {'called':>6} {'valid':>6} {'cut':>4}  refused"]
    for name, of in {**report["by_subset"], "all": report}.items():
        refused = ", ".join(f"{count} {code}" for code, count in of["unserved"].items())
        right = "-" if of["correct"] is None else of["correct"]
        lines.append(
            f"{name:24} {of['n']:5} {right:>6} {share(of['accuracy']):>8} {share(of['called']):>6} "
            f"{share(of['valid']):>6} {of['cut']:4}  {refused}".rstrip()
        )
    languages = ", ".join(report["simple_languages"]) or "none"
    lines.append(f"BFCL non-live {share(report['non_live'])} (simple: {languages})")
    lines.append("irrelevance " + "  ".join(f"{k} {share(v)}" for k, v in report["irrelevance"].items()))
    sure = report["confidence"]
    lines.append(
        f"confidence of {sure['n']} rows with calls: AUC mean {share(sure['auc_mean'])}, "
        f"least {share(sure['auc_min'])}, margin {share(sure['auc_margin'])}"
    )
    for at in sure["thresholds"] if sure["n"] else ():
        kept, accuracy = share(at["kept"]), share(at["accuracy"])
        lines.append(f"  mean probability >= {at['threshold']:.2f}: kept {kept}, right of these {accuracy}")
    return lines


def _classification_table(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{'':24} {'n':>5} {'accuracy':>8} {'in scope':>8} {'ECE':>6} {'baseline':>8} {'in scope':>8}  refused"
    ]
    for name, of in {**report["by_subset"], "all": report}.items():
        base = of.get("baseline", {})
        refused = ", ".join(f"{count} {code}" for code, count in of["unserved"].items())
        lines.append(
            f"{name:24} {of['n']:5} {share(of['accuracy']):>8} {share(of.get('in_scope_accuracy')):>8} "
            f"{share(of['expected_calibration_error']):>6} {share(base.get('accuracy')):>8} "
            f"{share(base.get('in_scope_accuracy')):>8}  {refused}".rstrip()
        )
    lines += [f"{name}: no classifier for its labels ({n} rows)" for name, n in report["left_out"].items()]
    return lines
