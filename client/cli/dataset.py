"""`raymill dataset`: registered sets of rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raymill.client.cli import dataset_look
from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.dataset_look import Name, Number, finished, parts_of
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.run import watch
from raymill.client.cli.sending import given
from raymill.client.cli.usage import Since, Until, moment
from raymill.policies.errors import Invalid, RaymillError
from raymill.train.dataset_config import Duplicates, Purpose

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill

app = new_app("Registered sets of rows.")
app.command()(dataset_look.stats)
app.command()(dataset_look.preview)

Files = Annotated[
    list[Path],
    typer.Argument(
        exists=True,
        dir_okay=False,
        resolve_path=True,
        show_default=False,
        help="jsonl, json, csv or parquet.",
    ),
]
TestFile = Annotated[
    Path | None,
    typer.Option("--test", exists=True, dir_okay=False, resolve_path=True, help="Held-out rows."),
]
Share = Annotated[
    float | None, typer.Option("--split", metavar="SHARE", help="Hold this share of the rows out.")
]
Seed = Annotated[int, typer.Option(help="Another seed holds other rows out.")]
Format = Annotated[str | None, typer.Option(help="Of the rows; found out from their content when left out.")]
Drop = Annotated[Duplicates, typer.Option(help="What becomes of training rows that are there already.")]
For = Annotated[
    Purpose, typer.Option(help="evaluation: to measure with; training sets must keep away from it.")
]
Waive = Annotated[
    list[str] | None,
    typer.Option(help="Evaluation set that may overlap all the same; it is recorded who said so."),
]
Upload = Annotated[bool, typer.Option("--upload", help="Send the files, also to a service on this machine.")]
BadRows = Annotated[bool, typer.Option("--allow-bad-rows", help="Leave bad rows out.")]


@app.command()
def add(
    name: Name,
    files: Files,
    test: TestFile = None,
    split: Share = None,
    seed: Seed = 0,
    format: Format = None,
    duplicates: Drop = "keep",
    purpose: For = "training",
    waive: Waive = None,
    allow_bad_rows: BadRows = False,
    upload: Upload = False,
    as_json: Json = False,
) -> None:
    """Check files and register them as the next version of NAME. Exit 1 when rows are bad or overlap with evaluation
    sets; nothing is registered then.

    Files are sent where the service runs on another machine; a broken connection is taken up again.
    """
    with connect() as client:
        asked = _asked(client, files, test, split, seed, upload=upload)
        pipeline = client.datasets.add(
            name,
            **asked,
            format=format,
            duplicates=duplicates,
            purpose=purpose,
            contamination={"waive": waive or []},
            allow_bad_rows=allow_bad_rows,
        )
    watch(pipeline, as_json=as_json)


@app.command()
def validate(
    files: Files,
    test: TestFile = None,
    split: Share = None,
    seed: Seed = 0,
    format: Format = None,
    purpose: For = "training",
    upload: Upload = False,
    as_json: Json = False,
) -> None:
    """Check files as `add` would, and register nothing. Exit 1 when something is wrong; every bad row is told."""
    with connect() as client:
        asked = _asked(client, files, test, split, seed, upload=upload)
        job = client.datasets.validate(**asked, format=format, purpose=purpose)
        found = finished(client, job)
    if as_json:
        out_json(found)
    else:
        bad = found["first_bad_rows"]
        for row in bad:
            out(f"{row['file']} {row['unit']} {row['number']}: {row['reason']}")
        if found["bad_rows"] > len(bad):
            out(f"and {found['bad_rows'] - len(bad)} more")
        if found["stats"]:
            out("\n".join(parts_of(found["stats"])))
    if not found["valid"]:
        rows = f"{found['bad_rows']} rows are bad: fix them, or add the set with --allow-bad-rows"
        raise RaymillError(found["problem"] or rows)


@app.command("list")
def list_datasets(
    name: Annotated[str | None, typer.Option(help="Only versions of this set.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Data sets, the newest first."""
    with connect() as client:
        found = list(client.datasets.list(name=name, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (
            d.name,
            d.number,
            d.purpose,
            d.shape,
            d.format,
            d.train_rows,
            d.test_rows,
            d.digest[:12],
            d.created_at,
        )
        for d in found
    ]
    out(table(["NAME", "NUMBER", "FOR", "SHAPE", "FORMAT", "TRAIN", "TEST", "DIGEST", "CREATED"], rows))


@app.command()
def show(name: Name, number: Number = None, as_json: Json = False) -> None:
    """One version of a set: what it is made of, and what it is for."""
    with connect() as client:
        found = client.datasets.get(name, number)
    if as_json:
        out_json(found)
        return
    files = [
        f"{each['name']} ({each['part']}, {str(each['sha256'])[:12]})"
        for each in found.provenance.get("files", [])
    ]
    rows = [
        ("number", found.number),
        ("for", found.purpose),
        ("shape", found.shape),
        ("format", found.format),
        ("training rows", found.train_rows),
        ("held out", found.test_rows),
        ("files", files),
        *((key, value) for key, value in found.provenance.items() if key not in {"files", "created_by"}),
        ("waived", [each["name"] for each in _overlaps(found.stats) if each["waived"]]),
        ("digest", found.digest),
        ("artifact", found.artifact_name),
        ("made by", found.provenance.get("created_by")),
        ("made", found.created_at),
    ]
    out(table(["DATA SET", found.name], rows))


@app.command("from-traffic")
def from_traffic(
    name: Name,
    route: Annotated[str, typer.Option(help="Model name that was asked for.", show_default=False)],
    since: Since = "7d",
    until: Until = None,
    min_score: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Only answers that nobody scored lower.")
    ] = None,
    feedback: Annotated[
        Literal["any", "scored", "corrected"], typer.Option(help="Only answers with such feedback.")
    ] = "any",
    rows_as: Annotated[
        Literal["conversations", "preferences"], typer.Option("--as", help="preferences: pairs of answers.")
    ] = "conversations",
    split: Share = None,
    seed: Seed = 0,
    duplicates: Drop = "drop_exact",
    waive: Waive = None,
    as_json: Json = False,
) -> None:
    """Make a set of what was asked of a route that keeps traces. Corrected answers become the target; personal data
    stays masked. Takes an admin."""
    with connect() as client:
        pipeline = client.datasets.from_traffic(
            name,
            route=route,
            since=moment(since),
            until=moment(until) if until else None,
            min_score=min_score,
            feedback=feedback,
            rows_as=rows_as,
            split=None if split is None else {"test": split, "seed": seed},
            duplicates=duplicates,
            contamination={"waive": waive or []},
        )
    watch(pipeline, as_json=as_json)


def _asked(
    client: Raymill, files: list[Path], test: Path | None, split: float | None, seed: int, *, upload: bool
) -> dict[str, Any]:
    """Files as the service knows them, and what is held out."""
    if test is not None and split is not None:
        raise Invalid("--test and --split both hold rows out: use one of them")
    return {
        "train": [given(client, path, upload=upload) for path in files],
        "test": None if test is None else given(client, test, upload=upload),
        "split": None if split is None else {"test": split, "seed": seed},
    }


def _overlaps(stats: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stats.get("contamination", {}).get("sets", [])
    return found
