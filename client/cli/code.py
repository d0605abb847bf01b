"""`raymill code`: submitted code, and how the steps ask their models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raymill.client.cli.app import DEFAULT_LIMIT, Json, Limit, connect, new_app
from raymill.client.cli.given import pairs, text_of
from raymill.client.cli.output import out, out_json, say, table, when
from raymill.client.code_types import (
    FAULTS,
    STEPS,
    CodeStepVersion,
    CodeTrial,
    Step,
    SubmissionDetail,
)
from raymill.client.types import State
from raymill.policies.errors import Invalid

if TYPE_CHECKING:
    from raymill.client.sdk import Raymill

app = new_app("Code analysis: findings by analysers and models, rebuilt code, and how the two compare.")
SubmissionId = Annotated[str, typer.Argument(metavar="ID", help="Id of a submission.", show_default=False)]
StepName = Annotated[
    str, typer.Argument(metavar="STEP", help="forensic, rebuild or quality.", show_default=False)
]

TEXT = "name a file in UTF-8, as `iconv -f LATIN1 -t UTF-8` writes it"


@app.command()
def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Source files.", show_default=False)],
    patch: Annotated[bool, typer.Option("--patch", help="FILE is a unified diff.")] = False,
    language: Annotated[
        str | None, typer.Option(help="Of the files; told by name and content by default.")
    ] = None,
    comment: Annotated[str, typer.Option(help="What the reviewers should know.")] = "",
    tests: Annotated[
        Path | None,
        typer.Option(help="Python with check(candidate), run before and after; needs --entry-point."),
    ] = None,
    entry_point: Annotated[str | None, typer.Option(help="The function that the tests are of.")] = None,
    key: Annotated[str | None, typer.Option("--idempotency-key", help="The same key submits once.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end; exit 1 unless it succeeded.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have code analysed, rebuilt and judged."""
    if (tests is None) != (entry_point is None):
        raise Invalid("--tests and --entry-point belong together: give both")
    if patch and len(files) != 1:
        raise Invalid(f"--patch takes one file, {len(files)} were given")
    texts = {_name(path): text_of(path, TEXT) for path in files}
    attached = {"code": text_of(tests, TEXT), "entry_point": entry_point} if tests is not None else None
    with connect() as client:
        made = client.code.submit(
            files=None if patch else texts,
            patch=next(iter(texts.values())) if patch else None,
            language=language,
            comment=comment,
            tests=attached,
            idempotency_key=key,
        )
        if not wait:
            out_json(made) if as_json else out(f"{made.id} {made.state}")
            return
        say(f"{made.id}: waiting for its steps")
        found = client.code.wait(made.id)
    _print(found, as_json)
    if found.state != "succeeded":
        raise typer.Exit(1)


@app.command()
def show(
    submission_id: SubmissionId,
    dossier: Annotated[bool, typer.Option("--dossier", help="Print the dossier, as Markdown.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Print what was changed, as a unified diff.")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Print the models' answers.")] = False,
    as_json: Json = False,
) -> None:
    """One submission: steps, findings, measured difference and rating."""
    with connect() as client:
        if answers:
            _print_answers(client, submission_id, as_json)
            return
        found = client.code.get(submission_id)
    if dossier or diff:
        text = found.dossier if dossier else found.diff
        if text is None:
            raise Invalid(f"submission {submission_id} has none yet: it is {found.state}")
        out(text.rstrip("\n"))
        return
    _print(found, as_json)


@app.command()
def history(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    as_json: Json = False,
) -> None:
    """Submissions, the newest first."""
    with connect() as client:
        found = list(client.code.list(state=state, limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(s.id, s.state, s.step, s.language, s.files, s.created_by, s.created_at) for s in found]
    out(table(["ID", "STATE", "STEP", "LANGUAGE", "FILES", "BY", "CREATED"], rows))


@app.command()
def cancel(submission_id: SubmissionId, as_json: Json = False) -> None:
    """Stop it. What its steps have found stays."""
    with connect() as client:
        found = client.code.cancel(submission_id)
    out_json(found) if as_json else out(f"{found.id} {found.state}")


@app.command()
def retry(submission_id: SubmissionId, as_json: Json = False) -> None:
    """Run the steps again that ended badly, and those that waited for them."""
    with connect() as client:
        found = client.code.retry(submission_id)
    out_json(found) if as_json else out(f"{found.id} is {found.state}")


@app.command()
def delete(submission_id: SubmissionId, as_json: Json = False) -> None:
    """Forget the code and all that was found and said of it, once it is over."""
    with connect() as client:
        found = client.code.delete(submission_id)
    out_json(found) if as_json else out(f"{found.id} is deleted")


@app.command()
def steps(as_json: Json = False) -> None:
    """How each step asks its model now."""
    with connect() as client:
        found = list(client.code.steps())
    if as_json:
        out_json(found)
        return
    rows = [
        (s.step, s.version, s.config["model"], s.config.get("fallback"), s.note, s.created_by) for s in found
    ]
    out(table(["STEP", "VERSION", "MODEL", "FALLBACK", "NOTE", "BY"], rows))


@app.command("set")
def set_step(
    step: StepName,
    model: Annotated[
        str, typer.Option(help="A route, a served model, or provider/model.", show_default=False)
    ],
    fallback: Annotated[str | None, typer.Option(help="Asked when the model has no usable answer.")] = None,
    prompt: Annotated[Path | None, typer.Option(metavar="FILE", help="The prompt; ours by default.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the request, such as temperature=0.2.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 4096,
    timeout_s: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 120.0,
    note: Annotated[str, typer.Option(help="Why it was changed.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Do not use it yet: try it with `canary`.")] = False,
    as_json: Json = False,
) -> None:
    """Another version of a step, used from now on. What is not given is the default."""
    with connect() as client:
        made = client.code.set_step(
            _step(step),
            model=model,
            fallback=fallback,
            prompt=text_of(prompt, TEXT) if prompt is not None else None,
            params=pairs(param or []),
            max_tokens=max_tokens,
            timeout_s=timeout_s,
            note=note,
            use=not keep,
        )
    said = (
        f"{made.step} is at version {made.version}"
        if made.active
        else f"{made.step} keeps version {made.version}"
    )
    out_json(made) if as_json else out(said)


@app.command()
def versions(step: StepName, as_json: Json = False) -> None:
    """Versions of a step, the newest first."""
    with connect() as client:
        found = list(client.code.versions(_step(step)))
    if as_json:
        out_json(found)
        return
    rows = [(v.version, _used(v), v.config["model"], v.note, v.created_by, v.created_at) for v in found]
    out(table(["VERSION", "IN USE", "MODEL", "NOTE", "BY", "CREATED"], rows))


@app.command()
def rollback(
    step: StepName,
    version: Annotated[int, typer.Argument(min=1, help="That is used again.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Use an earlier version of a step again."""
    with connect() as client:
        found = client.code.use_step(_step(step), version)
    out_json(found) if as_json else out(f"{found.step} is at version {found.version}")


@app.command()
def canary(
    step: StepName,
    version: Annotated[int | None, typer.Option(min=1, help="Try this version.")] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the submissions.")] = 0.1,
    stop: Annotated[bool, typer.Option("--stop", help="End the trial.")] = False,
    as_json: Json = False,
) -> None:
    """Try a version on a share of the submissions; without options: how each version does, by what was measured."""
    if stop and version is not None:
        raise Invalid("--stop ends a trial, --version begins one: give one of them")
    with connect() as client:
        if stop or version is not None:
            found = list(client.code.set_canary(_step(step), version, share=share))
        else:
            found = list(client.code.canary(_step(step)))
    if as_json:
        out_json(found)
        return
    rows = [
        (t.version, _used(t), t.submissions, t.succeeded, t.findings, t.resolved_share, t.new, t.parse_share)
        for t in found
    ]
    headers = ["VERSION", "IN USE", "SUBMISSIONS", "SUCCEEDED", "FINDINGS", "RESOLVED", "NEW", "PARSE"]
    out(table(headers, rows))


@app.command()
def experiment(
    fault: Annotated[
        str,
        typer.Argument(
            help="provider_outage, slow_answers, rate_limits or database_away.", show_default=False
        ),
    ],
    share: Annotated[float, typer.Option(help="Of the questions that it meets.")] = 1.0,
    delay_s: Annotated[float, typer.Option(help="Seconds, of slow_answers.")] = 1.0,
    seconds: Annotated[float, typer.Option(help="After which it ends by itself.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Put a fault into the steps for a while, to see that nothing is lost. Refused in production mode."""
    if fault not in FAULTS:
        raise Invalid(f"no fault {fault!r}: there are {', '.join(FAULTS)}")
    with connect() as client:
        made = client.code.start_experiment(fault, share=share, delay_s=delay_s, seconds=seconds)
    out_json(made) if as_json else out(f"{made.id} until {when(made.until)}")


@app.command()
def experiments(limit: Limit = DEFAULT_LIMIT, as_json: Json = False) -> None:
    """Faults that were put in, the newest first."""
    with connect() as client:
        found = list(client.code.experiments(limit=limit))
    if as_json:
        out_json(found)
        return
    rows = [(e.id, e.fault, e.share, e.started_by, e.started_at, e.until, e.stopped_at) for e in found]
    out(table(["ID", "FAULT", "SHARE", "BY", "STARTED", "UNTIL", "STOPPED"], rows))


@app.command("stop-experiment")
def stop_experiment(
    experiment_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)], as_json: Json = False
) -> None:
    """End one before its time."""
    with connect() as client:
        found = client.code.stop_experiment(experiment_id)
    out_json(found) if as_json else out(f"{found.id} has ended")


def _used(version: CodeTrial | CodeStepVersion) -> str:
    return "yes" if version.active else f"for {version.canary_share:.0%}" if version.canary_share else ""


def _print(found: SubmissionDetail, as_json: bool) -> None:
    if as_json:
        out_json(found)
        return
    out(f"{found.id} {found.state}, {found.language}, submitted by {found.created_by}")
    out(
        table(["STEP", "STATE", "MODEL", "ERROR"], [(s.step, s.state, s.model, s.error) for s in found.steps])
    )
    if found.findings:
        rows = [
            (f.id, f.cwe, f.severity, f"{f.file}:{f.line_start}", f.outcome, f.sources, f.title)
            for f in found.findings
        ]
        out()
        out(table(["FINDING", "CWE", "SEVERITY", "PLACE", "OUTCOME", "FOUND BY", "WHAT"], rows))
    if found.quality is not None:
        facts = found.quality["measured"]
        out()
        out(
            f"measured: {facts['resolved']} resolved, {facts['remaining']} remaining, {facts['new']} new, "
            f"{facts['unchecked']} unchecked; rating {found.quality['rating']} of 100 "
            f"(at most {found.quality['rating_at_most']} by what was measured)"
        )


def _print_answers(client: Raymill, submission_id: str, as_json: bool) -> None:
    found = client.code.answers(submission_id)
    if as_json:
        out_json(found)
        return
    rows = [
        (
            a.step,
            a.attempt,
            a.number,
            a.model,
            a.prompt_tokens,
            a.completion_tokens,
            a.cost_micro_usd,
            a.problem,
        )
        for a in found
    ]
    out(table(["STEP", "ATTEMPT", "ANSWER", "MODEL", "TOKENS IN", "OUT", "MICRO-USD", "PROBLEM"], rows))


def _step(name: str) -> Step:
    if name not in STEPS:
        raise Invalid(f"no step {name!r}: the steps are {', '.join(STEPS)}")
    return name


def _name(path: Path) -> str:
    """Relative where it can be; never one that leaves the folder."""
    return path.as_posix() if not path.is_absolute() and ".." not in path.parts else path.name
