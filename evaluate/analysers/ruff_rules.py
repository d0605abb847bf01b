"""Python by ruff's security rules (`S`), one run for all files of a version. Ruff is a program of its own: it is started
by the service, with limits, and the analysers' process, which may start nothing, does without it.

Files go by numbers, never by names that somebody has sent.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruff import find_ruff_bin

from raymill.evaluate.analysers.findings import TITLE_LETTERS, Finding, Level, line_at

NAME = "ruff"
TIMEOUT_S = 20.0
CPU_S = 20
MEMORY_BYTES = 4 << 30
"""Of address space, most of which is never touched."""

OPTIONS = (
    "check",
    "--isolated",
    "--no-cache",
    "--quiet",
    "--select=S",
    "--ignore-noqa",
    "--output-format=json",
    "--exit-zero",
    "--target-version=py311",
)

# The rules are bandit's with other numbers; what is not here has no CWE that says more than "bad practice".
CWES: dict[str, str] = {
    "S102": "CWE-94",
    "S103": "CWE-732",
    "S104": "CWE-605",
    "S105": "CWE-798",
    "S106": "CWE-798",
    "S107": "CWE-798",
    "S108": "CWE-377",
    "S110": "CWE-703",
    "S112": "CWE-703",
    "S113": "CWE-400",
    "S101": "CWE-703",
    "S201": "CWE-94",
    "S202": "CWE-22",
    "S301": "CWE-502",
    "S302": "CWE-502",
    "S303": "CWE-328",
    "S304": "CWE-327",
    "S305": "CWE-327",
    "S306": "CWE-377",
    "S307": "CWE-94",
    "S308": "CWE-79",
    "S310": "CWE-22",
    "S311": "CWE-338",
    "S312": "CWE-319",
    "S321": "CWE-319",
    "S323": "CWE-295",
    "S324": "CWE-328",
    "S501": "CWE-295",
    "S502": "CWE-327",
    "S503": "CWE-327",
    "S504": "CWE-327",
    "S505": "CWE-326",
    "S506": "CWE-20",
    "S507": "CWE-295",
    "S508": "CWE-319",
    "S509": "CWE-319",
    "S601": "CWE-78",
    "S602": "CWE-78",
    "S603": "CWE-78",
    "S604": "CWE-78",
    "S605": "CWE-78",
    "S606": "CWE-78",
    "S607": "CWE-78",
    "S608": "CWE-89",
    "S609": "CWE-155",
    "S610": "CWE-89",
    "S611": "CWE-89",
    "S612": "CWE-94",
    "S701": "CWE-94",
    "S702": "CWE-80",
    "S704": "CWE-79",
}
CWES.update(dict.fromkeys([f"S{number}" for number in range(313, 321)], "CWE-611"))
CWES.update(dict.fromkeys([f"S{number}" for number in range(401, 416)], "CWE-1104"))

HIGH = frozenset({"S602", "S605", "S501", "S324", "S201", "S604", "S609", "S701", "S702"})
LOW = frozenset({"S101", "S110", "S112", "S311", "S603", "S606", "S607", "S105", "S106", "S107"})


def look(texts: Mapping[str, str]) -> tuple[list[Finding], dict[str, str]]:
    """What ruff finds in Python files, and for each file that it could not read why not; of those it finds nothing. A
    fragment that is indented as a whole is read as if it were not.

    Raises:
        OSError, TimeoutExpired: ruff could not be run to its end.
    """
    with tempfile.TemporaryDirectory(prefix="raymill-ruff-") as folder:
        names = {f"{number}.py": file for number, file in enumerate(texts)}
        for name, file in names.items():
            (Path(folder) / name).write_text(textwrap.dedent(texts[file]), encoding="utf-8", errors="replace")
        said = _run(folder)
    found: list[Finding] = []
    problems: dict[str, str] = {}
    for each in said:
        file = names[Path(each["filename"]).name]
        code = each.get("code")
        if code in (None, "invalid-syntax"):
            problems.setdefault(file, f"line {each['location']['row']}: {each['message']}"[:TITLE_LETTERS])
        elif code.startswith("S"):
            found.append(_finding(each, file, texts[file].split("\n")))
    return [each for each in found if each.file not in problems], problems


def _run(folder: str) -> list[dict[str, Any]]:
    process = subprocess.Popen(
        [_program(), *OPTIONS, folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"RAYON_NUM_THREADS": "1", "HOME": folder},
        cwd=folder,
    )
    with process:
        for limit, most in ((resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY_BYTES)):
            try:
                resource.prlimit(process.pid, limit, (most, most))
            except ProcessLookupError:  # it has ended already
                break
        try:
            output, complaint = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if process.returncode != 0:
        raise OSError(f"ruff ended with {process.returncode}: {complaint.decode(errors='replace')[-300:]}")
    found: list[dict[str, Any]] = json.loads(output)
    return found


@functools.cache
def _program() -> str:
    return str(find_ruff_bin())


def _finding(said: dict[str, Any], file: str, lines: list[str]) -> Finding:
    code, start = said["code"], int(said["location"]["row"])
    severity: Level = "high" if code in HIGH else "low" if code in LOW else "medium"
    return Finding(
        title=str(said["message"])[:TITLE_LETTERS],
        cwe=CWES.get(code),
        severity=severity,
        file=file,
        line_start=start,
        line_end=min(max(start, int(said["end_location"]["row"])), start + 20),
        evidence=line_at(lines, start),
        confidence="medium",
        sources=(NAME,),
        rule=code,
    )
