"""`raymill train`: training runs, from the start to what is taken away. A run's id is its job's."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import NOTHING, image_format, out, out_json, say, table
from raymill.client.cli.run import DryRun, NoWait, RecipeFile
from raymill.policies.errors import Invalid, RaymillError
from raymill.registry.sizes import size

if TYPE_CHECKING:
    from raymill.client.run_types import Run, RunComparison, RunDetail, RunExport
    from raymill.client.sdk import Raymill

app = new_app(
    "Training runs: `raymill train recipe.yaml`. An id is that of the run's job; its last characters do.",
    default="start",
)

RunId = Annotated[str, typer.Argument(help="Run, as `raymill train list` shows it.", show_default=False)]
RunIds = Annotated[
    list[str], typer.Argument(help="Runs, as `raymill train list` shows them.", show_default=False)
]
SHORT = 8


class Form(enum.Enum):
    """What a run's model is taken away as."""

    ADAPTER = "adapter"
    HF = "hf"
    GGUF = "gguf"
    GGUF_ADAPTER = "gguf-adapter"


LOOKED_AT = 200


@app.command()
def start(
    recipe: RecipeFile, dry_run: DryRun = False, no_wait: NoWait = False, as_json: Json = False
) -> None:
    """Run a recipe up to its trained model: its sections model, base, dataset and train.

    The word `start` may be left out. Exit codes as for `raymill run`, so it can be the entry point of
    `ray job submit`.
    """
    from raymill.client.cli.run import start as start_recipe
    from raymill.client.recipe import load_recipe

    start_recipe(load_recipe(recipe).training_only(), dry_run=dry_run, no_wait=no_wait, as_json=as_json)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Option("--name", help="Only runs of this model.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Training runs, the newest first."""
    with connect() as client:
        found = list(client.runs.list(name=name, limit=limit))
    if as_json:
        out_json(found)
        return
    head = ["RUN", "MODEL", "METHOD", "STATE", "STEP", "LOSS", "TOKENS/S", "VERSION", "CREATED"]
    out(table(head, map(row, found)))


def row(run: Run) -> tuple[object, ...]:
    step = f"{run.step}/{run.steps}" if run.steps else NOTHING
    loss = run.metrics.get("final_loss", run.metrics.get("loss"))
    rate = run.metrics.get("tokens_per_s")
    told = f"{rate:,.0f}" if rate is not None else None
    return (
        str(run.id)[-SHORT:],
        run.name,
        run.method,
        run.state,
        step,
        loss,
        told,
        run.version,
        run.created_at,
    )


@app.command()
def show(run: RunId, as_json: Json = False) -> None:
    """What a run was told to do, how it went, and its loss as a curve."""
    with connect() as client:
        found = client.runs.get(id_of(client, run))
        points = [] if as_json else client.runs.points(found.id).points
    if as_json:
        out_json(found)
        return
    from raymill.client.cli.chart import curve

    out(table(["WHAT", "VALUE"], facts(found)))
    for line in curve([(point["step"], point["loss"]) for point in points if "loss" in point], "loss"):
        out(line)


def facts(run: RunDetail) -> list[tuple[str, object]]:
    from raymill.client.cli.output import cell

    rows: list[tuple[str, object]] = [
        ("run", run.id), ("model", run.name), ("version", run.version), ("state", run.state), ("error", run.error),
        ("step", f"{run.step} of {run.steps}" if run.steps else None), ("base", (run.base or {}).get("artifact")),
        ("dataset", (run.dataset or {}).get("artifact")), ("artifact", run.artifact), ("adapter", run.adapter),
    ]  # fmt: skip
    rows += [(name, value) for name, value in sorted(run.metrics.items())]
    rows += [(f"config {name}", value) for name, value in run.config.items()]
    return [(name, cell(value)) for name, value in rows if value is not None]


@app.command()
def compare(runs: RunIds, as_json: Json = False) -> None:
    """Runs side by side: settings in which they differ, final numbers, curves of the loss."""
    with connect() as client:
        found = client.runs.compare([id_of(client, run) for run in runs])
    if as_json:
        out_json(found)
        return
    print_comparison(found)


def print_comparison(found: RunComparison) -> None:
    from raymill.client.cli.chart import curve

    names = [f"{run.name} {str(run.id)[-SHORT:]}" for run in found.runs]
    rows = [(f"config {key}", *values) for key, values in found.config.items()]
    rows += [(key, *values) for key, values in found.metrics.items()]
    out(table(["", *names], [("state", *(run.state for run in found.runs)), *rows]))
    for name, points in zip(names, found.curves, strict=True):
        out()
        for line in curve(
            [(point["step"], point["loss"]) for point in points if "loss" in point], f"loss of {name}"
        ):
            out(line)


@app.command()
def plot(
    runs: RunIds,
    to: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Picture to write: run.png or run.svg.", show_default=False),
    ] = None,
    metric: Annotated[
        str,
        typer.Option("--metric", "-m", help="loss, lr, grad_norm, tokens_per_s and more; commas between."),
    ] = "loss",
    as_json: Json = False,
) -> None:
    """The curves of one run, or of several over each other: as a picture, or as text without --out."""
    metrics = [each.strip() for each in metric.split(",") if each.strip()]
    image = image_format(to, "out") if to is not None else "png"
    with connect() as client:
        ids = [id_of(client, run) for run in runs]
        if to is not None:
            to.write_bytes(client.runs.plot(ids[0], others=ids[1:], metrics=metrics, image=image))
            say(f"{to} has the curves of {len(ids)} run{'s' if len(ids) > 1 else ''}")
            return
        found = [client.runs.points(run_id) for run_id in ids]
    if as_json:
        out_json(found)
        return
    from raymill.client.cli.chart import curve

    for key in metrics:
        for run in found:
            points = [(float(point["step"]), float(point[key])) for point in run.points if key in point]
            for line in curve(points, f"{key} of {run.name} {str(run.id)[-SHORT:]}"):
                out(line)


@app.command()
def export(
    run: RunId,
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to; made if needed.")],
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="adapter, hf (merged, Hugging Face layout), gguf, or gguf-adapter (for llama.cpp's --lora).",
        ),
    ] = Form.HF,
    kind: Annotated[str, typer.Option("--type", help="Of a GGUF file, such as Q8_0.")] = "F16",
    as_json: Json = False,
) -> None:
    """Fetch a run's model with its model card (README.md). A GGUF file is made first where nobody made it yet."""
    with connect() as client:
        run_id = id_of(client, run)
        found = client.runs.export(run_id, form.value, type=kind)
        if found.job_id is not None:
            say(f"making the {kind} file: job {found.job_id}")
            ended = client.jobs.wait(found.job_id)
            if ended.state != "succeeded":
                raise RaymillError(f"job {ended.id} {ended.state}: {ended.error}")
            found = client.runs.export(run_id, form.value, type=kind)
        fetch(client, run_id, found, folder)
    if as_json:
        out_json(found)


def fetch(client: Raymill, run_id: str, found: RunExport, folder: Path) -> None:
    for file in found.files:
        target = (folder / file.path).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise RaymillError(
                f"the service names the file {file.path}, which is outside {folder}: do not trust it"
            )
        client.runs.download(run_id, found, file, target)
        say(f"{target}  {size(file.size_bytes)}")
    (folder / "README.md").write_text(client.runs.card(run_id), encoding="utf-8")
    say(f"{folder / 'README.md'}  the model card")


def id_of(client: Raymill, text: str) -> str:
    """A whole id as it is; of a part, the one run whose id ends so.

    Raises:
        Invalid: none of the newest does, or several.
    """
    if len(text) == 36:
        return text
    found = [str(run.id) for run in client.runs.list(limit=LOOKED_AT) if str(run.id).endswith(text.lower())]
    if len(found) != 1:
        how = f"{len(found)} runs end so" if found else f"none of the newest {LOOKED_AT} runs ends so"
        raise Invalid(f"run {text!r}: {how}; `raymill train list --json` shows whole ids", param="run")
    return found[0]
