"""`raymill evaluate`: measure a target; is one better than another, and how do they stand on a task?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymill.client.cli.app import Json, connect, new_app
from raymill.client.cli.evaluate_changed import changed
from raymill.client.cli.given import dollars, text_of
from raymill.client.cli.output import NOTHING, image_format, out, out_json, say, table
from raymill.client.cli.run import NoWait, follow_unless

if TYPE_CHECKING:
    from raymill.client.evaluation_types import Standing, TaskComparison, VersionComparison

app = new_app("Measure versions, endpoints and models behind the gateway; compare them, example by example.")
app.command()(changed)

HOW = (
    "Such as support@3, support@production, support@3:Q4_K_M (a GGUF file), support@3:base, gateway:MODEL or "
    "https://HOST/v1#MODEL."
)
Version = Annotated[str, typer.Argument(help=HOW, show_default=False)]
Task = Annotated[str | None, typer.Option("--task", "-t", help="This task only.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Also draw a picture: .png or .svg.", show_default=False),
]


@app.command()
def run(
    target: Annotated[str, typer.Argument(help=HOW, show_default=False)],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="As in a recipe: heldout_exact_match, or '{benchmark: gsm8k, file: gsm8k.jsonl}'; may be repeated.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Whose held-out rows are asked: NAME or NAME@NUMBER.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="The first held-out rows.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer to a held-out row.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at once; 8 by default.")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="RAYMILL_TARGET_KEY_... in the service's environment that holds an endpoint's key.",
        ),
    ] = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Measure TARGET on tasks, in a job that goes on where it was when it is killed.

    gateway:MODEL is asked by a key of yours that lives as long as the job, under your limits and budgets. Exit 1 unless the
    job succeeds.
    """
    ask = {} if concurrency is None else {"ask": {"concurrency": concurrency}}
    given = {"limit": limit, "max_new_tokens": max_new_tokens, "key_env": key_env}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None} | ask
    with connect() as client:
        pipeline = client.evaluations.run(
            target, list(map(task_of, tasks or ["heldout_exact_match"])), dataset=dataset, **asked
        )
    follow_unless(no_wait, pipeline, as_json=as_json)


@app.command()
def judge(
    a: Version,
    by: Annotated[
        str, typer.Option("--judge", "-j", metavar="MODEL", help="A name that the gateway answers for.")
    ],
    b: Annotated[str | None, typer.Argument(help="Leave it out for a rubric.", show_default=False)] = None,
    task: Annotated[
        str, typer.Option("--task", "-t", help="Whose kept answers are judged.")
    ] = "heldout_exact_match",
    rubric: Annotated[
        str | None, typer.Option(help="What makes an answer good: words, or @FILE with them.")
    ] = None,
    scale: Annotated[
        int | None, typer.Option(min=2, max=10, help="Best mark of a rubric; 5 by default.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="The first examples.")] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What people said: rows with index and label.")
    ] = None,
    labels_by: Annotated[str | None, typer.Option(metavar="WHO", help="Whose labels they are.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Under which a rubric's score stands; judge by default.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at once; 8 by default.")] = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Have a model judge kept answers: A against B in both orders, or A alone by a rubric.

    Verdicts that change with the order are ties. Exit 1 unless the job succeeds.
    """
    if (labels is None) != (labels_by is None):
        raise typer.BadParameter(
            "--labels and --labels-by go together: give the file, and whose labels they are"
        )
    given = {
        "task": task,
        "rubric": rubric_of(rubric),
        "scale": scale,
        "limit": limit,
        "name": name,
        "labels": {"file": str(labels.absolute()), "source": labels_by} if labels else None,
        "ask": {"concurrency": concurrency} if concurrency else None,
    }
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with connect() as client:
        pipeline = client.evaluations.judge(a, b, judge=by, **asked)
    follow_unless(no_wait, pipeline, as_json=as_json)


def rubric_of(text: str | None) -> str | None:
    """Words, or those in the file behind @."""
    if text is None or not text.startswith("@"):
        return text
    return text_of(Path(text[1:]), "give a file with the rubric's words")


def task_of(text: str) -> Any:
    """A task as a recipe has it, its paths seen from here."""
    import yaml

    from raymill.client.recipe import task_at

    try:
        task = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise typer.BadParameter(f"{text!r} is no task: {' '.join(str(error).split())}") from None
    return task_at(task, Path.cwd())


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
    """Show the newest score of each version and remote target on each task with its 95 % interval, the best first."""
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
        head = [
            "TASK", "VERSION", "ALIASES", "SCORE", "95 % INTERVAL", "SE", "SAMPLES", "DATA", "COST", "EVALUATED",
        ]  # fmt: skip
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
        each.standard_error, each.samples, each.dataset,
        None if each.cost_micro_usd is None else dollars(each.cost_micro_usd), each.evaluated_at,
    )  # fmt: skip


def save(plot: Path | None, drawn: bytes) -> None:
    if plot is not None:
        plot.write_bytes(drawn)
        say(f"wrote {plot}")
