"""Which language a file is in: by what its author says, by its name, else by its content.

A guess by content counts words that one language has and its neighbours have not; where none stands out, there is none.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "python": (".py", ".pyi", ".pyw"),
    "javascript": (".js", ".mjs", ".cjs", ".jsx"),
    "typescript": (".ts", ".mts", ".cts", ".tsx"),
    "go": (".go",),
    "java": (".java",),
    "c": (".c", ".h"),
    "cpp": (".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx"),
    "rust": (".rs",),
    "csharp": (".cs",),
    "php": (".php", ".phtml"),
    "sql": (".sql",),
}
LANGUAGES = tuple(EXTENSIONS)
ALIASES = {
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "ts": "typescript",
    "golang": "go",
    "c++": "cpp",
    "rs": "rust",
    "c#": "csharp",
    "cs": "csharp",
}

_BY_EXTENSION = {extension: name for name, extensions in EXTENSIONS.items() for extension in extensions}

_SIGNS: dict[str, tuple[str, ...]] = {
    "php": (r"<\?php", r"\$\w+\s*=", r"->\w+\(", r"\becho\s"),
    "python": (
        r"^\s*def \w+\(.*\).*:\s*$",
        r"^\s*(from [\w.]+ )?import [\w.]+",
        r"^\s*(if|for|while|with|try|elif|except|class)\b.*:\s*$",
        r"\bself\.",
        r"\bNone\b",
    ),
    "rust": (r"\bfn \w+.*(->|\{)", r"\blet (mut )?\w+", r"\bimpl\b", r"\bpub (fn|struct|enum)\b", r"\w+!\("),
    "go": (r"^package \w+", r"\bfunc (\(\w+ \*?\w+\) )?\w+\(", r":=", r"\berr != nil\b"),
    "java": (
        r"\bpublic (static |final )*(class|interface|void|\w+) \w+",
        r"\bimport java",
        r"\bSystem\.out\.",
        r"@Override",
    ),
    "csharp": (
        r"\busing System",
        r"\bnamespace \w+",
        r"\bConsole\.Write",
        r"\{ get; (set;)?",
        r"\bstring \w+ =",
    ),
    "typescript": (
        r"\binterface \w+ \{",
        r":\s*(string|number|boolean|any|unknown)\b",
        r"\bexport (type|interface)\b",
        r"\bas \w+;",
    ),
    "javascript": (
        r"\b(const|let|var) \w+ =",
        r"=>",
        r"\bfunction\b",
        r"\brequire\(",
        r"\bconsole\.log\(",
        r"===",
    ),
    "cpp": (
        r"#include <(iostream|string|vector|map|memory)>",
        r"\bstd::",
        r"\bclass \w+",
        r"\btemplate ?<",
        r"\w+::\w+",
    ),
    "c": (
        r"#include <\w+\.h>",
        r"\b(char|int|void|struct \w+|size_t) \*?\w+",
        r"\bmalloc\(",
        r"->\w+",
        r"\bprintf\(",
    ),
    "sql": (
        r"(?i)^\s*(select|insert into|update|delete from|create (table|view|index|procedure))\b",
        r"(?i)\bfrom \w+",
        r"(?i)\bwhere\b",
        r"(?i)\bvarchar\b",
    ),
}
_COMPILED = {name: tuple(re.compile(sign, re.MULTILINE) for sign in signs) for name, signs in _SIGNS.items()}
LOOKED_AT_LETTERS = 20_000


def named(language: str) -> str | None:
    """Our name of a language that somebody has named; None: it is none that we know."""
    said = language.strip().lower()
    said = ALIASES.get(said, said)
    return said if said in EXTENSIONS else None


def detect(file: str, text: str) -> str | None:
    """The language of a file, or None."""
    suffix = PurePosixPath(file).suffix.lower()
    by_name = _BY_EXTENSION.get(suffix)
    if by_name == "c" and suffix == ".h" and _score("cpp", text[:LOOKED_AT_LETTERS]):
        return "cpp"
    return by_name or _by_content(text[:LOOKED_AT_LETTERS])


def _by_content(text: str) -> str | None:
    first = text.lstrip().partition("\n")[0]
    if first.startswith("#!"):
        found = re.search(r"\b(python|node|php)", first)
        return {"python": "python", "node": "javascript", "php": "php"}[found[1]] if found else None
    scores = {name: _score(name, text) for name in _COMPILED}
    scores["cpp"] += scores["c"] if scores["cpp"] else 0  # it has all that C has, and more
    scores["typescript"] += scores["javascript"] if scores["typescript"] else 0
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= 2 else None


def _score(name: str, text: str) -> int:
    """How many of a language's signs are there."""
    return sum(sign.search(text) is not None for sign in _COMPILED[name])
