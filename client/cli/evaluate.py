"""`raymill evaluate`: is a version better than another, and how do versions stand on a task?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.output import NOTHING, image_format, out, out_json, say, table

if TYPE_CHECKING:
    from raymill.client.evaluation_types import Standing, TaskComparison, VersionComparison

app = new_app("How measured versions compare, example by example.")

HOW = "Such as support@3, support@production, support@3:Q4_K_M (a GGUF file) or support@3:base."
Version = Annotated[str, typer.Argument(help=HOW, show_default=False)]
Task = Annotated[str | None, typer.Option("--task", "-t", help="This task only.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Also draw a picture: .png or .svg.", show_default=False),
]


@app.command()
def compare(a: Version, b: Version, task: Task = None, plot: Plot = None, as_json: Json = False) -> None:
    """Say whether A is better than B, on each task that both were measured on.

    The examples that both were asked are paired. better and worse: a two-sided test at 5 % (McNemar's where scores are
    0 or 1, else the paired bootstrap) says that the difference is no chance; no evidence: it does not.
    """
    image = image_format(plot, "plot") if plot else "png"
    with connect() as client:
        found = client.evaluations.compare(a, b, task=task)
        drawn = client.evaluations.compare_plot(a, b, task=task, image=image) if plot else b""
    if as_json:
        out_json(found)
    else:
        print_comparison(found)
    save(plot, drawn)


@app.command()
def leaderboard(
    task: Task = None,
    model: Annotated[str | None, typer.Option(help="Versions of this model only.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="Of the newest scores.")] = 100,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Show the newest score of each version on each task with its 95 % interval, the best first."""
    image = image_format(plot, "plot") if plot else "png"
    with connect() as client:
        found = client.evaluations.leaderboard(task=task, model=model, limit=limit)
        drawn = (
            client.evaluations.leaderboard_plot(task=task, model=model, limit=limit, image=image)
            if plot
            else b""
        )
    if as_json:
        out_json(found)
    else:
        head = ["TASK", "VERSION", "ALIASES", "SCORE", "95 % INTERVAL", "SE", "SAMPLES", "DATA", "EVALUATED"]
        out(table(head, map(standing_row, found.standings)))
        for each in found.standings:
            if each.note:
                say(f"{each.version} has no interval: {each.note}")
    save(plot, drawn)


def print_comparison(found: VersionComparison) -> None:
    out(f"{found.a} against {found.b}")
    out()
    head = [
        "TASK", "VERDICT", "A", "B", "DIFFERENCE", "95 % INTERVAL", "P", "EXAMPLES", "WINS", "LOSSES", "TEST",
    ]  # fmt: skip
    out(table(head, map(comparison_row, found.tasks)))
    for each in found.tasks:
        for line in left_out(found, each):
            say(f"{each.task}: {line}")


def comparison_row(each: TaskComparison) -> tuple[object, ...]:
    interval = f"{each.low:+.4g} to {each.high:+.4g}"
    return (
        each.task, each.verdict, each.mean_a, each.mean_b, f"{each.difference:+.4g}", interval, f"{each.p_value:.2g}",
        each.examples, each.wins, each.losses, each.test,
    )  # fmt: skip


def left_out(found: VersionComparison, each: TaskComparison) -> Iterator[str]:
    """What the comparison does not speak of."""
    for version, count in ((found.a, each.only_a), (found.b, each.only_b)):
        if count:
            yield f"{count} examples of {version} alone are left out"
    if each.asked_differently:
        yield f"{each.asked_differently} examples were asked in different words (another template)"


def standing_row(each: Standing) -> tuple[object, ...]:
    known = each.low is not None and each.high is not None
    return (
        each.task, each.version, each.aliases, each.score, f"{each.low:.4g} to {each.high:.4g}" if known else NOTHING,
        each.standard_error, each.samples, each.dataset, each.evaluated_at,
    )  # fmt: skip


def save(plot: Path | None, drawn: bytes) -> None:
    if plot is not None:
        plot.write_bytes(drawn)
        say(f"wrote {plot}")
