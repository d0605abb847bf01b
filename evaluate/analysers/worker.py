"""The analysers' process: `python -m raymill.evaluate.analysers.worker MEMORY_BYTES CPU_S`.

It imports and tries everything once, gives up files, processes and sockets for good, and then answers requests, one
line of JSON each. It holds no data between two requests. A request that crashes it costs that one answer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict, replace
from typing import Any

from raymill.evaluate.analysers import bandit_rules, flawfinder_rules, grammars, patterns
from raymill.evaluate.analysers.findings import FileReport, Finding
from raymill.evaluate.sandbox.isolation import Resources, confine
from raymill.evaluate.sandbox.kernel import Refused

OPEN_FILES = 32
TRIAL = {
    "python": "import os\nimport pickle\npassword = 'secret99'\n\n\ndef f(x):\n    os.system('ls ' + x)\n    return pickle.loads(x)\n",
    "c": "#include <string.h>\nvoid f(char *a, char *b) { strcpy(a, b); printf(b); }\n",
}
"""What is looked at before the doors close: it has everything imported that is imported late."""


def analyse(file: str, language: str, text: str) -> tuple[FileReport, list[Finding]]:
    """Everything but ruff's part."""
    source = text.encode(errors="replace")
    found: list[Finding] = []
    analysers: list[str] = []
    problems: list[str] = []
    parsed = grammars.parse(language, file, source)
    parses = not parsed.line
    if not parses:
        problems.append(f"line {parsed.line} does not parse as {language}")
    read = True
    if language == "python":
        try:
            found += bandit_rules.look(file, text)
            analysers.append(bandit_rules.NAME)
        except (SyntaxError, ValueError, RecursionError) as error:
            read = parses = False  # the grammar lets Python 2 pass
            problems.append(f"bandit cannot read it: {error}"[:200])
    elif language in ("c", "cpp"):
        found += flawfinder_rules.look(file, text)
        analysers.append(flawfinder_rules.NAME)
    found += patterns.look(language, file, source, parsed.tree, read=read)
    analysers.append(patterns.NAME)
    report = FileReport(
        file=file,
        language=language,
        parses=parses,
        analysers=tuple(analysers),
        problems=tuple(problems),
    )
    return report, found


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`{"files": [[file, language, text], ...]}` -> the files' reports and their findings."""
    reports: list[FileReport] = []
    findings: list[Finding] = []
    for file, language, text in request["files"]:
        try:
            report, found = analyse(file, language, text)
        except Exception as error:  # noqa: BLE001 (an analyser that breaks on some code is told of, not died of)
            report = FileReport(file=file, language=language, parses=None, analysers=())
            report, found = (
                replace(report, problems=(f"the analysers broke: {type(error).__name__}: {error}"[:200],)),
                [],
            )
        reports.append(report)
        findings += found
    return {
        "files": [asdict(report) for report in reports],
        "findings": [finding.to_json() for finding in findings],
    }


def shut_in(memory_bytes: int, cpu_s: int) -> str:
    """Give up all but computing. Returns what is in force: `confined`, or why not more than limits."""
    resources = Resources(cpu_s=cpu_s, memory_bytes=memory_bytes, file_bytes=0, open_files=OPEN_FILES)
    try:
        confine(resources, user=None, namespaced=False)
    except (Refused, OSError) as error:
        return f"limits alone: {error}"
    return "confined"


def main() -> None:
    """Serve until standard input ends."""
    memory_bytes, cpu_s = (int(argument) for argument in sys.argv[1:3])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    logging.disable()  # bandit complains of file names
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    for language in grammars.GRAMMARS:
        grammars.parser(language)
    answer({"files": [["trial", language, text] for language, text in TRIAL.items()]})
    answers.write(json.dumps({"isolation": shut_in(memory_bytes, cpu_s)}) + "\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
