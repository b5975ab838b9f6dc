"""`smallfirst eval robustness`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Absolute, as in `evals`, which this module hands its values to: a type checker takes the two spellings for two types.
from smallfirst.router.settings import Settings

from .options import json_option

FILE = click.Path(path_type=Path, dir_okay=False)
PRESETS = ("quality", "balanced", "thrifty")


@click.command()
@click.option("--data", required=True, type=FILE, help="Rows with `request`, to be dressed up.")
@click.option("--pairs", multiple=True, type=FILE, help="Pairs of requests with `equivalent`. Repeatable.")
@click.option(
    "--weak", default="smollm2-135m", show_default=True, help="The local model, by its ability's name."
)
@click.option("--strong", default="strong", show_default=True, help="Likewise the cloud model.")
@click.option("--limit", default=300, show_default=True, type=click.IntRange(10), help="Rows to dress up.")
@click.option("--seed", default=0, show_default=True, help="Draws rows and random words.")
@json_option
@click.pass_obj
def robustness(load: Callable[[], Settings], /, data: Path, as_json: bool, **options: Any) -> None:
    """Count decisions that change when a request begins with words that say nothing of it, or is said otherwise."""
    from smallfirst.evals.robustness import Pair, equivalent_pairs, robustness_report
    from smallfirst.router.scoring import Scorer
    from smallfirst.router.training.files import decoded, read_rows

    scorer = Scorer.load()
    named = [scorer.ability_named(options[which]) for which in ("weak", "strong")]
    if named[0] is None or named[1] is None:
        raise click.UsageError(
            f"--weak and --strong name abilities; there are {', '.join(scorer.abilities)}."
        )
    settings = load()
    rows = [decoded(row, "request", str(data)) for row in read_rows(data)]
    random.Random(options["seed"]).shuffle(rows)
    report = robustness_report(
        scorer,
        Pair(named[0], named[1]),
        rows[: options["limit"]],
        equivalent_pairs(options["pairs"]),
        policies=[settings.policy_named(name) for name in PRESETS],
        seed=options["seed"],
        progress=lambda step: click.echo(step, err=True),
    )
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo("\n".join(_table(report)))


def _table(report: dict[str, Any]) -> list[str]:
    def line(name: str, by_policy: dict[str, float], at: list[float], last: str) -> str:
        return (
            f"{name:26} " + " ".join(f"{share:8.3f}" for share in (*by_policy.values(), *at)) + f" {last:>7}"
        )

    heads = [*report["local"], *(f"at {share:.0%}" for share in report["kept_local"])]
    lines = [
        f"{report['n']} requests; decisions changed, by policy and by thresholds that keep a share local"
    ]
    lines.append(f"{'':26} " + " ".join(f"{head:>8}" for head in heads) + f" {'shift':>7}")
    lines.append(line("stays local", report["local"], report["kept_local"], ""))
    for name, of in report["gadgets"].items():
        lines.append(line(name, of["changed"], of["changed_at"], f"{of['shift']:+.3f}"))
    said = report["paraphrases"]
    if said["n"]:
        lines.append(f"{said['n']} pairs with the same answer; same decision")
        lines.append(line("all", said["same"], said["same_at"], ""))
        lines += [line(kind, of["same"], of["same_at"], str(of["n"])) for kind, of in said["by_kind"].items()]
    return lines
