"""`raymill dataset stats` and `preview`: what a set is like, and how its rows look to a base."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymill.client.cli.app import Json, connect
from raymill.client.cli.chart import with_bars
from raymill.client.cli.output import out, out_json, table
from raymill.client.dataset_types import Part
from raymill.policies.errors import RaymillError

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill
    from raymill.client.types import Job, JsonObject

Name = Annotated[str, typer.Argument(help="Name in the registry.", show_default=False)]
Number = Annotated[int | None, typer.Option(min=1, help="Version; the newest when left out.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Folder of a base on the service's machine, or an artifact such as base/triage/0a1b2c3d4e5f."
    ),
]
Side = Annotated[Part, typer.Option(help="Training rows, or the held-out ones.")]
GREEN, PLAIN = "\x1b[32m", "\x1b[0m"


def stats(
    name: Name,
    number: Number = None,
    base: Base = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="Rows with more tokens would be cut.")] = 1024,
    part: Side = "train",
    as_json: Json = False,
) -> None:
    """Rows, lengths, languages, roles, duplicates and overlap; with a base also tokens, the share that is trained and
    the rows that --max-tokens would cut."""
    with connect() as client:
        found = client.datasets.get(name, number)
        tokens: JsonObject | None = None
        if base is not None:
            asked = {"number": found.number, "part": part, "max_tokens": max_tokens}
            tokens = finished(client, client.datasets.token_stats(name, base, **asked))
    if as_json:
        given: JsonObject = {"name": found.name, "number": found.number, **found.stats}
        out_json(given if tokens is None else {**given, "tokens": tokens})
        return
    lines = [
        f"{found.name} version {found.number}: {found.shape} rows ({found.format})",
        "",
        *parts_of(found.stats),
    ]
    if tokens is not None:
        lines += ["", *_tokens(tokens, part)]
    out("\n".join(lines))


def preview(
    name: Name,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=100, help="How many rows.")] = 5,
    first: Annotated[int, typer.Option(min=1, help="The first one's number; only with a base.")] = 1,
    number: Number = None,
    base: Base = None,
    part: Side = "train",
    as_json: Json = False,
) -> None:
    """Rows in normal form. With a base: their text as it sees them, what is trained in green (on a terminal; else
    between [[ and ]]), and how many tokens that is."""
    with connect() as client:
        if base is None:
            found = list(client.datasets.rows(name, number=number, part=part, limit=rows))
            if as_json:
                out_json(found)
                return
            for each in found:
                out(f"{each.number}: {json.dumps(each.row, ensure_ascii=False)}")
            return
        asked = {"number": number, "part": part, "rows": rows, "first": first}
        shown = finished(client, client.datasets.preview(name, base, **asked))
    if as_json:
        out_json(shown)
        return
    for each in shown["rows"]:
        out("\n".join(_rendered(each)))


def finished(client: Raymill, job: Job) -> JsonObject:
    """The result of a job that stands alone, once it is over.

    Raises:
        RaymillError: it did not succeed.
    """
    ended = client.jobs.wait(job.id)
    if ended.state != "succeeded" or ended.result is None:
        raise RaymillError(
            f"job {ended.id} {ended.state}: {' '.join((ended.error or 'see its log').split())}"
        )
    return ended.result


def parts_of(stats: JsonObject) -> list[str]:
    """A table of both sides, what is there twice, and how long rows are."""
    sides = {name: stats[name] for name in ("train", "test") if stats.get(name)}
    rows: list[tuple[object, ...]] = [
        ("rows", *(f"{side['rows']:,}" for side in sides.values())),
        ("characters", *(f"{side['characters']:,}" for side in sides.values())),
        ("longest, median", *(_longest(side["length_characters"]) for side in sides.values())),
        ("languages", *(_shares(side["languages"]) for side in sides.values())),
        ("turns by role", *(_counts(side["roles"]) for side in sides.values())),
        ("rows by turns", *(_counts(side["turns"]) for side in sides.values())),
        ("rows with tools", *(f"{side['with_tools']:,}" for side in sides.values())),
    ]
    lines = table(["", *(name.upper() for name in sides)], rows).splitlines()
    twice = stats.get("duplicates", {})
    lines.append(
        f"duplicates: {twice.get('exact', 0):,} exact, {twice.get('near', 0):,} near, {twice.get('dropped', 0):,} "
        f"dropped; {stats.get('overlap', 0):,} held-out rows ask what a training row asks"
    )
    for each in stats.get("contamination", {}).get("sets", []):
        waived = " (waived)" if each["waived"] else ""
        lines.append(
            f"overlap with {each['name']} version {each['number']}: {each['rows']:,} of its rows{waived}"
        )
    for name, side in sides.items():
        lines += ["", *_histogram(f"characters ({name})", side["length_characters"])]
    return lines


def _tokens(found: JsonObject, part: str) -> list[str]:
    unusable = (
        f", {found['rows_unusable']:,} unusable ({found['first_unusable']})" if found["rows_unusable"] else ""
    )
    return [
        f"tokens of {part} by {found['base']}: {found['tokens']:,}, of which {found['trained_token_share']:.1%} trained",
        f"rows with more than {found['max_tokens']:,} tokens: {found['rows_cut']:,} of {found['rows']:,} "
        f"({found['share_cut']:.1%}){unusable}",
        "",
        *_histogram(f"tokens ({part})", found["length_tokens"]),
    ]


def _histogram(what: str, lengths: JsonObject) -> list[str]:
    buckets = lengths["histogram"]
    if not buckets:
        return []
    rows = [(f"{each['from']:,} to {each['to'] - 1:,}", f"{each['rows']:,}") for each in buckets]
    lines = table([what.upper(), "ROWS"], rows).splitlines()
    columns = shutil.get_terminal_size().columns
    return with_bars(lines, [each["rows"] for each in buckets], columns)


def _rendered(each: JsonObject) -> list[str]:
    """A row's sequences as text."""
    if each["problem"]:
        return [f"row {each['number']}: {each['problem']}", ""]
    start, end = _marks()
    lines: list[str] = []
    for sequence in each["sequences"]:
        text = "".join(
            f"{start}{piece['text']}{end}" if piece["trained"] else piece["text"]
            for piece in sequence["pieces"]
        )
        counts = f"{sequence['tokens']:,} tokens, {sequence['trained_tokens']:,} trained"
        lines += [f"row {each['number']}: {counts}", text, ""]
    return lines


def _marks() -> tuple[str, str]:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return (GREEN, PLAIN) if coloured else ("[[", "]]")


def _longest(lengths: JsonObject) -> str:
    return f"{lengths['max']:,}, {lengths['median']:,}"


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in list(shares.items())[:5])


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in list(counts.items())[:6])
