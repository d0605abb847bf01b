"""What may be submitted, and in which form it is kept: files with a name, a language and a text.

Names are never used as paths; they are checked all the same, for they come back in reports, patches and prompts.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath

from raymill.client.code_types import CodeFile, SubmissionRequest
from raymill.evaluate.analysers.languages import EXTENSIONS, LANGUAGES, detect, named
from raymill.policies.errors import Invalid
from raymill.registry.artifacts import canonical_json
from raymill.registry.code import NewSubmission
from raymill.registry.tables import JsonObject
from raymill.registry.uploads import TooLarge

NAME = re.compile(r"[\w.@+ -]+(/[\w.@+ -]+)*")
HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
MOST_CONTROL_SHARE = 0.01
BYTE_ORDER_MARK = "\ufeff"


def checked(request: SubmissionRequest, most_bytes: int) -> NewSubmission:
    """The submission of a request.

    Raises:
        Invalid: it holds no code, is no text, has a name that cannot be one, or a language that nobody can tell.
        TooLarge: it has more than `most_bytes`.
    """
    files = [_file(file, request.language) for file in _files(request)]
    names = [file["name"] for file in files]
    if len(set(names)) < len(names):
        raise Invalid("two files have the same name: give each its own", param="files")
    size = sum(len(file["text"].encode()) for file in files)
    if size > most_bytes:
        raise TooLarge(
            f"the code has {size} bytes, {most_bytes} are taken: submit fewer files, or ask for a higher code_bytes"
        )
    _check_text(request.comment, "comment", "the comment")
    tests = _tests(request, files)
    sent = {"files": files, "comment": request.comment, "tests": tests}
    largest = max(files, key=lambda file: len(file["text"]))
    return NewSubmission(
        files=files,
        language=largest["language"],
        comment=request.comment,
        tests=tests,
        size_bytes=size,
        digest=hashlib.sha256(canonical_json(sent)).hexdigest(),
    )


def _files(request: SubmissionRequest) -> list[CodeFile]:
    given = [name for name in ("code", "files", "patch") if getattr(request, name) is not None]
    if len(given) != 1:
        raise Invalid(
            f"{' and '.join(given) or 'no code'} given: send one of code, files and patch", param="code"
        )
    if request.files is not None:
        return request.files
    if request.patch is not None:
        return from_patch(request.patch)
    assert request.code is not None
    language = _language(request.language) if request.language else detect("code", request.code)
    return [CodeFile(name="code" + (EXTENSIONS[language][0] if language else ""), text=request.code)]


def from_patch(patch: str) -> list[CodeFile]:
    """What a unified diff leaves of each file: its new lines and those around them.

    Raises:
        Invalid: it is none.
    """
    found: dict[str, list[str]] = {}
    name, old, new = "", 0, 0
    # By the numbers of lines that a hunk's head names: what a line within looks like says nothing of where it ends.
    for line in patch.split("\n"):
        if old > 0 or new > 0:
            kind = line[:1].strip() or " "
            if kind == "\\":
                continue
            if kind not in {"+", "-", " "}:
                raise Invalid(
                    f"patch has {line[:40]!r} within a hunk: send the output of `git diff` as it is",
                    param="patch",
                )
            old -= kind != "+"
            new -= kind != "-"
            if kind != "-" and name not in {"", "/dev/null"}:
                found.setdefault(name, []).append(line[1:])
        elif line.startswith("+++ "):
            name = line[4:].split("\t")[0].strip().removeprefix("b/")
        elif line.startswith("diff "):
            name = ""
        elif hunk := HUNK.match(line):
            old, new = (1 if count is None else int(count) for count in hunk.groups())
    if not found:
        raise Invalid(
            "patch is no unified diff with changed lines: send the output of `git diff`", param="patch"
        )
    return [CodeFile(name=name[:200], text="\n".join(lines) + "\n") for name, lines in found.items()]


def _file(file: CodeFile, language: str | None) -> JsonObject:
    path = PurePosixPath(file.name)
    if not NAME.fullmatch(file.name) or path.is_absolute() or {"..", "."} & set(file.name.split("/")):
        raise Invalid(
            f"{file.name[:80]!r} cannot be the name of a file: give a relative one without .., such as src/app.py",
            param="files",
        )
    text = file.text.removeprefix(BYTE_ORDER_MARK)
    _check_text(text, "files", f"{file.name}")
    if not text.strip():
        raise Invalid(f"{file.name} is empty: send code", param="files")
    said = file.language or language
    found = _language(said) if said else detect(file.name, text)
    if found is None:
        raise Invalid(
            f"the language of {file.name} cannot be told: say it, one of {', '.join(LANGUAGES)}",
            param="language",
        )
    return {"name": file.name, "language": found, "text": text}


def _language(said: str) -> str:
    found = named(said)
    if found is None:
        raise Invalid(
            f"language {said[:32]!r} is not known: use one of {', '.join(LANGUAGES)}", param="language"
        )
    return found


def _check_text(text: str, param: str, what: str) -> None:
    """Raises Invalid: it is binary, or holds half of a pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid(f"{what} holds half a character: send it as UTF-8", param=param) from None
    if "\0" in text or len(CONTROL.findall(text)) > MOST_CONTROL_SHARE * len(text):
        raise Invalid(f"{what} is binary: send the source", param=param)


def _tests(request: SubmissionRequest, files: list[JsonObject]) -> JsonObject | None:
    tests = request.tests
    if tests is None:
        return None
    _check_text(tests.code, "tests.code", "tests.code")
    of = tests.file or (files[0]["name"] if len(files) == 1 else None)
    file = next((file for file in files if file["name"] == of), None)
    if file is None:
        there_are = ", ".join(file["name"] for file in files)
        raise Invalid(
            f"tests.file is {of!r}: name the file that they are of, one of {there_are}", param="tests.file"
        )
    if file["language"] != "python":
        raise Invalid(f"tests of {file['language']} cannot be run: only Python's are", param="tests")
    return {"file": of, "entry_point": tests.entry_point, "code": tests.code}
