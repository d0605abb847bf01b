"""The `raymill` command: finds the noun, and loads only its module.

The list of commands stands here as text, so that `raymill --help` imports nothing but the standard
library. An error made on purpose ends as one line on stderr: exit 2 when the input was wrong, else 1.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Entry(NamedTuple):
    """Where a command lives, and its line in the help."""

    module: str
    app: str
    help: str


COMMANDS: dict[str, dict[str, Entry]] = {
    "Service": {
        "up": Entry("service", "up_app", "Start the service, or join a Ray cluster."),
        "down": Entry("service", "down_app", "Stop the service. Nothing of record is lost."),
        "status": Entry("status", "app", "Nodes, queues, what is served and what is wrong, on one screen."),
        "tls": Entry("service", "tls_app", "Certificates of one's own: make."),
        "doctor": Entry("service", "doctor_app", "Look for what is wrong with this machine or the service."),
        "backup": Entry("backup", "app", "Backups: create, list, verify, prove by restoring, restore."),
    },
    "Work": {
        "run": Entry("run", "run_app", "Run a recipe from data to a served model."),
        "train": Entry("train", "app", "Training runs: start, list, show, compare, plot, export."),
        "tune": Entry("tune", "app", "Search for the best values of a recipe; searches: list, show, plot."),
        "pipeline": Entry("pipeline", "app", "Recipes being run: list, show, watch, cancel, pause, retry."),
        "jobs": Entry(
            "jobs", "app", "Their steps, and jobs alone: list, submit, logs, retry, stats and more."
        ),
        "queue": Entry("queues", "app", "Where jobs wait: list, set, pause, resume."),
        "trigger": Entry("trigger", "app", "Pipelines that start by themselves: list, add, fire and more."),
        "hook": Entry("hook", "app", "What follows when they end: list, add, deliveries and more."),
        "drift": Entry("drift", "app", "Watch served models and routes: add, run, runs, events and more."),
        "dataset": Entry("dataset", "app", "Data sets: add, validate, list, stats, preview, from-traffic."),
    },
    "Models": {
        "model": Entry(
            "model", "app", "Models: list, show, versions, lineage, verify, sbom, archive and more."
        ),
        "evaluate": Entry(
            "evaluate",
            "app",
            "Measure versions, endpoints, gateway models: run, judge, compare, leaderboard.",
        ),
        "alias": Entry(
            "alias", "app", "Names that move from version to version: list, history, rollback, freeze."
        ),
        "promotion": Entry(
            "promotion", "app", "Which version an alias names: create, approve, list and more."
        ),
        "environment": Entry(
            "environment", "app", "How many approvals an alias takes, and whose: list, set."
        ),
        "policy": Entry("policy", "app", "The rules that decide: test, save, dry-run, explain, replay."),
        "code": Entry("code", "app", "Code analysis: submit, show, history, cancel, steps and more."),
        "chat": Entry("chat", "app", "Talk with a served model."),
    },
    "Gateway": {
        "provider": Entry("provider", "app", "Outside services: list, add, test, sync, keys and more."),
        "route": Entry("route", "app", "Model names and who answers for them: list, set, remove."),
        "preset": Entry("preset", "app", "Personas, usable as model names: list, set, remove."),
        "price": Entry("price", "app", "What models cost: list, set, remove."),
        "usage": Entry("usage", "app", "What was asked, spent and slow, by day, route, key and more."),
    },
    "Access": {
        "login": Entry("login", "login_app", "Log in with a password or at an identity provider."),
        "logout": Entry("login", "logout_app", "End the login on this machine."),
        "whoami": Entry("login", "whoami_app", "Which account this is, and its role."),
        "session": Entry("session", "app", "Logins: list, end."),
        "user": Entry("user", "app", "Accounts and their roles: list, create, set-password and more."),
        "team": Entry("team", "app", "Accounts that share budgets: list, create, add, remove."),
        "limit": Entry("limit", "app", "What accounts may use: show, set, tiers."),
        "budget": Entry("budget", "app", "What may be spent: list, set, remove."),
        "key": Entry("key", "app", "API keys: list, create, revoke."),
        "master-key": Entry("master_key", "app", "Keys that seal secrets: list, rotate, rewrap, retire."),
        "signing": Entry("signing", "app", "Keys that sign: list, export, rotate, revoke."),
        "audit": Entry("audit", "app", "Who did what, and the proof of it: list, export, verify."),
    },
}


def main() -> None:
    """Entry point of the `raymill` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of `raymill` with these arguments."""
    match list(arguments):
        case [] | ["-h" | "--help" | "help"]:
            sys.stdout.write(usage())
            return 0
        case ["--version"]:
            from importlib.metadata import version

            sys.stdout.write(f"raymill {version('raymill')}\n")
            return 0
        case [noun, *rest]:
            entries = {name: entry for group in COMMANDS.values() for name, entry in group.items()}
            if noun not in entries:
                return _unknown(noun, list(entries))
            return _run_noun(noun, entries[noun], rest)
    raise AssertionError(arguments)


def _run_noun(noun: str, entry: Entry, rest: list[str]) -> int:
    # Late, so that the help stays fast.
    from raymill.policies.errors import Invalid, RaymillError

    try:
        module = importlib.import_module(f"raymill.client.cli.{entry.module}")
        app = getattr(module, entry.app)
        app(args=rest, prog_name=f"raymill {noun}")
    except RaymillError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"error: {message}\n")
        return 2 if isinstance(error, Invalid) else 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _unknown(noun: str, known: list[str]) -> int:
    from difflib import get_close_matches

    close = get_close_matches(noun, known, n=1)
    cure = f"did you mean {close[0]}?" if close else "see `raymill --help`"
    sys.stderr.write(f"error: no command {noun!r}: {cure}\n")
    return 2


def usage() -> str:
    lines = [
        "Usage: raymill COMMAND [ARGS]...",
        "",
        "A base model and a data set in; a measured, signed and served model out.",
        "",
    ]
    for group, entries in COMMANDS.items():
        lines += [f"{group}:", *(f"  {name:<13}{entry.help}" for name, entry in entries.items()), ""]
    lines += [
        "`raymill COMMAND --help` tells more; every command takes --json.",
        "RAYMILL_URL, RAYMILL_API_KEY and RAYMILL_CA_FILE say which service; by default the one on this machine.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
