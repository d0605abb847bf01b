"""`raymill model`: models, their versions, and where these come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymill.client.cli import model_proof
from raymill.client.cli.alias import AsOf, Reason
from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.lineage import lineage_tree
from raymill.client.cli.output import out, out_json, table
from raymill.client.cli.results import scores
from raymill.client.cli.usage import moment
from raymill.policies.errors import NotFound

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill

app = new_app("Models and their versions.")
Name = Annotated[str, typer.Argument(help="Model, such as support-triage.", show_default=False)]
Which = Annotated[int, typer.Option("--version", "-v", min=1, help="Version.", show_default=False)]
Number = Annotated[int | None, typer.Option("--version", "-v", min=1, help="The newest by default.")]


@app.command("list")
def list_models(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Models with their aliases."""
    with connect() as client:
        found = list(client.llms.list(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (m.name, m.latest_version, [f"{alias}={v}" for alias, v in m.aliases.items()], m.created_at)
        for m in found
    ]
    out(table(["NAME", "LATEST", "ALIASES", "CREATED"], rows))


@app.command()
def show(name: Name, as_of: AsOf = None, as_json: Json = False) -> None:
    """One model, with its aliases now or at a time."""
    with connect() as client:
        model = client.llms.get(name, as_of=moment(as_of) if as_of else None)
    if as_json:
        out_json(model)
        return
    rows = [("latest version", model.latest_version), ("created", model.created_at)]
    out(table(["MODEL", model.name], [*rows, *((f"alias {a}", v) for a, v in model.aliases.items())]))


@app.command()
def versions(name: Name, limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Versions with their scores, the newest first."""
    with connect() as client:
        found = list(client.llms.versions(name, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [
        (
            v.number,
            ["archived"] if v.archived else v.aliases,
            scores(dict(v.scores)),
            v.artifact_name,
            v.created_at,
        )
        for v in found
    ]
    out(table(["VERSION", "ALIASES", "SCORES", "ARTIFACT", "CREATED"], rows))


@app.command()
def lineage(name: Name, version: Number = None, as_json: Json = False) -> None:
    """Everything behind a version: data, base, run, scores, files, decisions and signatures."""
    with connect() as client:
        found = client.llms.lineage(name, number_of(client, name, version))
    out_json(found) if as_json else out(lineage_tree(found).render())


@app.command()
def verify(
    name: Name,
    version: Number = None,
    attestation: Annotated[
        list[Path] | None,
        typer.Option(
            help="Signed statement from `raymill model attest`; may be given often.", show_default=False
        ),
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key (PEM) that may have signed.", show_default=False)
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder with model/NAME/ADDRESS in it; by default the service's.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read the bytes of a version again; hold them against its digests and signatures. Exit 1 when they differ.

    With --attestation and --key no service is asked: the statement, the public key and the files are enough.
    """
    if attestation:
        artifacts = model_proof.verify(name, version, attestation, key or [], store)
        signed, number = len(artifacts), version or artifacts[0]["version"]
        if as_json:
            out_json({"verified": True, "artifacts": artifacts})
    else:
        with connect() as client:
            number = number_of(client, name, version)
            found = client.llms.verify(name, number)
        artifacts = found.artifacts
        signed = sum(bool(artifact.get("signed")) for artifact in artifacts)
        if as_json:
            out_json(found)
    if not as_json:
        out(
            f"{name} version {number}: {len(artifacts)} artifacts are as they were registered, {signed} signed"
        )


@app.command()
def attest(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="A file for each artifact.", show_default=False)],
    version: Number = None,
    as_json: Json = False,
) -> None:
    """Write the signed statements over a version to FOLDER, for `raymill model verify --attestation`."""
    with connect() as client:
        number = number_of(client, name, version)
        attestations = client.llms.lineage(name, number).attestations
    if not attestations:
        raise NotFound(f"{name} {number} carries no signature: promote it first")
    files = [str(file) for file in model_proof.save(attestations, folder)]
    out_json({"files": files}) if as_json else out("\n".join(files))


@app.command()
def sbom(name: Name, version: Number = None, as_json: Json = False) -> None:
    """The packages that made a version, with their licences. --json gives the CycloneDX document."""
    with connect() as client:
        document = client.llms.sbom(name, number_of(client, name, version)).document
    if as_json:
        out_json(document)
        return
    rows = [(each["name"], each.get("version"), licenses_of(each)) for each in document["components"]]
    out(table(["PACKAGE", "VERSION", "LICENCE"], rows))


def licenses_of(component: dict[str, Any]) -> str:
    """As one line; empty where the package does not tell."""
    return ", ".join(
        each.get("expression") or each["license"]["name"] for each in component.get("licenses", [])
    )


@app.command()
def archive(name: Name, version: Which, reason: Reason = None, as_json: Json = False) -> None:
    """Put a version away: it can be neither promoted nor served. Not while an alias points to it."""
    with connect() as client:
        found = client.llms.archive(name, version, reason=reason)
    out_json(found) if as_json else out(f"{name} version {found.number} is archived")


@app.command()
def restore(name: Name, version: Which, as_json: Json = False) -> None:
    """Let an archived version be promoted and served again."""
    with connect() as client:
        found = client.llms.restore(name, version)
    out_json(found) if as_json else out(f"{name} version {found.number} can be promoted again")


def number_of(client: Raymill, name: str, version: int | None) -> int:
    """The version asked for, else the newest."""
    if version is not None:
        return version
    latest = client.llms.get(name).latest_version
    if latest is None:
        raise NotFound(f"model {name} has no version yet: train one with `raymill run`")
    return latest
