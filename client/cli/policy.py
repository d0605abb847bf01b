"""`raymill policy`: the rules that decide about promotions. Written in Rego; see docs/promotion.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.output import out, out_json, table
from raymill.policies.errors import Invalid, RaymillError

app = new_app("The rules that decide about promotions, in Rego.")

Name = Annotated[str, typer.Argument(help="Policy, such as house-rules.", show_default=False)]
Rules = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="With *.rego files; *_test.rego are tests.", show_default=False),
]
PromotionId = Annotated[str, typer.Argument(metavar="ID", help="Of a promotion.", show_default=False)]


@app.command("list")
def list_policies(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Versions of policies, the newest first. `raymill` is what Raymill ships, once it has decided."""
    with connect() as client:
        found = list(client.policies.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (p.name, p.number, p.bundle_digest[:12], sorted(p.files), p.created_by, p.created_at) for p in found
    ]
    out(table(["POLICY", "NUMBER", "RULES SHA256", "FILES", "BY", "SAVED"], rows))


@app.command()
def show(
    name: Name,
    number: Annotated[int | None, typer.Option("--number", min=1, help="The newest by default.")] = None,
    as_json: Json = False,
) -> None:
    """The text of a policy."""
    with connect() as client:
        found = client.policies.get(name, number=number)
    if as_json:
        out_json(found)
        return
    for file, source in sorted(found.files.items()):
        out(f"# {found.name} {found.number}: {file}\n\n{source}")


@app.command("test")
def run_tests(folder: Rules, as_json: Json = False) -> None:
    """Compile rules and run their `test_` rules. Nothing is kept. Exit 1 when one fails."""
    with connect() as client:
        found = client.policies.test(read(folder))
    if as_json:
        out_json(found)
    else:
        rows = [(each.name, "ok" if each.passed else "FAILED", each.message) for each in found.tests]
        out(table(["TEST", "RESULT", "ANSWER"], rows))
    if not found.passed:
        raise RaymillError(f"{sum(not each.passed for each in found.tests)} of {len(found.tests)} tests fail")


@app.command()
def save(name: Name, folder: Rules, as_json: Json = False) -> None:
    """Keep rules as the next version of a policy; `raymill environment set --policy NAME` has them decide."""
    with connect() as client:
        made = client.policies.save(name, read(folder))
    out_json(made) if as_json else out(f"{made.name} {made.number} is saved ({made.bundle_digest[:12]})")


@app.command("dry-run")
def dry_run(
    folder: Rules,
    alias: Annotated[str | None, typer.Option(help="Of promotions to this alias alone.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1000, help="Of the newest so many.")
    ] = 100,
    as_json: Json = False,
) -> None:
    """On which of the promotions so far these rules would have decided otherwise. Nothing is kept."""
    with connect() as client:
        found = client.policies.dry_run(read(folder), alias=alias, limit=limit)
    if as_json:
        out_json(found)
        return
    rows = [
        (
            c.promotion_id,
            c.llm,
            c.version,
            c.alias,
            "allowed" if c.allowed else "refused",
            "; ".join(c.reasons),
        )
        for c in found.changed
    ]
    out(table(["PROMOTION", "MODEL", "VERSION", "ALIAS", "WOULD BE", "REASONS"], rows))
    out(f"{len(found.changed)} of {found.asked} promotions would be decided otherwise")


@app.command()
def explain(promotion_id: PromotionId, as_json: Json = False) -> None:
    """Which rules stand against a promotion, and what they looked at."""
    with connect() as client:
        found = client.policies.explain(promotion_id)
    if as_json:
        out_json(found)
        return
    out(f"policy {found.policy}: {'allowed' if found.allowed else 'refused'}")
    for each in found.findings:
        out(f"\n{each.sentence}\n  {each.rule}")
        for key, value in each.looked_at.items():
            out(f"  {key} = {json.dumps(value, ensure_ascii=False)}")


@app.command()
def replay(promotion_id: PromotionId, as_json: Json = False) -> None:
    """Make a stored decision again by its own rules and input. Exit 1 when it is not the same."""
    with connect() as client:
        found = client.policies.replay(promotion_id)
    verdict = "allowed" if found.allowed else "refused"
    if as_json:
        out_json(found)
    elif found.same:
        out(
            f"{verdict} again by {found.policy}: input {found.input_digest[:12]}, rules {found.bundle_digest[:12]}"
        )
    if not found.same:
        raise RaymillError(f"promotion {promotion_id} is {verdict} now, which is not what is on record")


def read(folder: Path) -> dict[str, str]:
    """Name -> text of the *.rego files in a folder. Raises Invalid."""
    try:
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rego"))}
    except UnicodeDecodeError:
        raise Invalid(f"a file in {folder} is no text: write rules in UTF-8") from None
    if not files:
        raise Invalid(f"no *.rego file lies in {folder}: name a folder with promotion rules")
    return files
