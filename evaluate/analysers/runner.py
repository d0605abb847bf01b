"""The analysers as the service uses them: one long-lived process, replaced when it dies, takes too long or grows too large.

A crash or a hang costs the files of one request: each is then tried alone, and the one that does it again is reported as
not looked at. Nothing that was not looked at counts as clean.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import raymill
from raymill.evaluate.analysers import ruff_rules
from raymill.evaluate.analysers.findings import Analysis, FileReport, Finding, merge, split_lines
from raymill.evaluate.analysers.languages import detect
from raymill.policies.errors import RaymillError

MEMORY_BYTES = 1 << 30
"""Of address space."""

CPU_S = 3600
"""Of one process in all its life; then another one takes its place."""

TIMEOUT_S = 30.0
START_TIMEOUT_S = 60.0
MOST_ANSWER_BYTES = 32 << 20


class AnalyserLost(RaymillError):
    """The analysers' process ended, or did not answer in time."""

    code = "analyser_lost"


class Analysers:
    """Looks at code. Threads take turns at the process; ruff runs beside it."""

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES, timeout_s: float = TIMEOUT_S) -> None:
        self._memory_bytes = memory_bytes
        self._timeout_s = timeout_s
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self.isolation = ""
        """`confined`, or what the kernel did not grant; empty until the process was started."""

        self.starts = 0

    def analyse(
        self, texts: Mapping[str, str], languages: Mapping[str, str | None] | None = None
    ) -> Analysis:
        """Everything that there is to say of some files.

        Args:
            texts: file name -> content.
            languages: file name -> language where somebody has said it; others are detected.
        """
        started = time.monotonic()
        known = {file: (languages or {}).get(file) or detect(file, text) for file, text in texts.items()}
        files = [
            # All analysers count the same lines, whichever ends of lines they know.
            (file, language, "\n".join(split_lines(texts[file])))
            for file, language in known.items()
            if language is not None
        ]
        reports, found = self._ask(files)
        python = {file: text for file, language, text in files if language == "python"}
        if python:
            reports, more = _with_ruff(python, reports)
            found += more
        unknown = [
            FileReport(
                file=file, language=None, parses=None, analysers=(), problems=("its language is not known",)
            )
            for file, language in known.items()
            if language is None
        ]
        return Analysis(
            findings=tuple(merge(found)),
            files=(*reports, *unknown),
            seconds=time.monotonic() - started,
        )

    def close(self) -> None:
        """End the process; the next question starts another one."""
        with self._turn:
            self._end()

    def _ask(
        self, files: list[tuple[str, str, str]], *, first: bool = True
    ) -> tuple[list[FileReport], list[Finding]]:
        if not files:
            return [], []
        try:
            return self._answer(files)
        except AnalyserLost as error:
            if len(files) == 1 and first:
                return self._ask(files, first=False)  # the process may have died of something else
            if len(files) == 1:
                file, language, _ = files[0]
                lost = FileReport(
                    file=file, language=language, parses=None, analysers=(), problems=(str(error),)
                )
                return [lost], []
        reports: list[FileReport] = []
        findings: list[Finding] = []
        for each in files:
            report, found = self._ask([each])
            reports += report
            findings += found
        return reports, findings

    def _answer(self, files: list[tuple[str, str, str]]) -> tuple[list[FileReport], list[Finding]]:
        with self._turn:
            try:
                said = self._exchange({"files": files})
            except BaseException:
                self._end()
                raise
        reports = [
            FileReport(**{**each, "analysers": tuple(each["analysers"]), "problems": tuple(each["problems"])})
            for each in said["files"]
        ]
        return reports, [Finding.from_json(each) for each in said["findings"]]

    def _exchange(self, request: dict[str, Any]) -> Any:
        process = self._running()
        assert process.stdin is not None
        line = json.dumps(request).encode() + b"\n"
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError as error:
            raise AnalyserLost(f"the analysers' process has ended ({error})") from None
        return self._read(process, self._timeout_s)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        source = Path(next(iter(raymill.__path__))).parent
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raymill.evaluate.analysers.worker", str(self._memory_bytes), str(CPU_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={"PYTHONPATH": str(source), "PYTHONUTF8": "1", "PATH": "/usr/bin:/bin"},
            cwd="/",
            bufsize=0,
        )
        self.starts += 1
        self.isolation = self._read(self._process, START_TIMEOUT_S)["isolation"]
        return self._process

    def _read(self, process: subprocess.Popen[bytes], timeout_s: float) -> Any:
        assert process.stdout is not None
        until, said = time.monotonic() + timeout_s, bytearray()
        while not said.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise AnalyserLost(f"the analysers did not answer within {timeout_s:g} s")
            more = process.stdout.read(1 << 16)
            if not more:
                raise AnalyserLost(f"the analysers' process has ended{self._last_words()}")
            said += more
            if len(said) > MOST_ANSWER_BYTES:
                raise AnalyserLost(f"the analysers say more than {MOST_ANSWER_BYTES >> 20} MiB")
        return json.loads(said)

    def _last_words(self) -> str:
        if self._complaints is None:
            return ""
        self._complaints.seek(0)
        lines = self._complaints.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass
        if self._complaints is not None:
            with contextlib.suppress(OSError):
                self._complaints.close()
            self._complaints = None


def _with_ruff(texts: dict[str, str], reports: list[FileReport]) -> tuple[list[FileReport], list[Finding]]:
    try:
        found, unread = ruff_rules.look(texts)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        found, unread = [], dict.fromkeys(texts, f"it could not be run: {error}"[:200])
    told = []
    for report in reports:
        if report.file not in texts:
            told.append(report)
        elif (why := unread.get(report.file)) is not None:
            told.append(replace(report, problems=(*report.problems, f"ruff: {why}")))
        else:
            told.append(replace(report, analysers=(*report.analysers, ruff_rules.NAME)))
    return told, found
