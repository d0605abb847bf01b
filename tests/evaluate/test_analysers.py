"""What the analysers find, how findings are merged and compared, and what happens when they crash, hang or are fooled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from raymill.evaluate.analysers.findings import Analysis, FileReport, Finding, compare, merge
from raymill.evaluate.analysers.grammars import GRAMMARS
from raymill.evaluate.analysers.languages import LANGUAGES, detect, named
from raymill.evaluate.analysers.patterns import rules
from raymill.evaluate.analysers.runner import Analysers

WEAK = {
    "a.py": "import os\nimport hashlib\n\n\ndef f(x):\n    os.system('ls ' + x)\n    return hashlib.md5(x)\n",
    "a.c": "#include <string.h>\nvoid f(char *a, char *b) {\n    strcpy(a, b);\n}\n",
    "a.cpp": "#include <string>\nint f() {\n    return std::rand();\n}\n",
    "a.js": "// eval(a)\nfunction f(a) {\n  return eval(a);\n}\n",
    "a.ts": "export function f(e: HTMLElement, a: string) {\n  e.innerHTML = a;\n}\n",
    "a.go": 'package main\n\nfunc f(x string) {\n\texec.Command("sh", "-c", x)\n}\n',
    "A.java": 'class A {\n  void f(String x) {\n    st.executeQuery("select * from t where a = " + x);\n  }\n}\n',
    "a.rs": 'fn f(x: &str) -> String {\n    format!("SELECT * FROM t WHERE a = {}", x)\n}\n',
    "A.cs": "class A {\n  object F(Stream s) {\n    return new BinaryFormatter().Deserialize(s);\n  }\n}\n",
    "a.php": "<?php\necho $_GET['name'];\n",
    "a.sql": "GRANT ALL ON t TO everybody;\n",
}
EXPECTED = {
    "a.py": {(6, "CWE-78"), (7, "CWE-328")},
    "a.c": {(3, "CWE-120")},
    "a.cpp": {(3, "CWE-338")},
    "a.js": {(3, "CWE-95")},
    "a.ts": {(2, "CWE-79")},
    "a.go": {(4, "CWE-78")},
    "A.java": {(3, "CWE-89")},
    "a.rs": {(2, "CWE-89")},
    "A.cs": {(3, "CWE-502")},
    "a.php": {(2, "CWE-79")},
    "a.sql": {(1, "CWE-250")},
}


@pytest.fixture(scope="module")
def analysers() -> Iterator[Analysers]:
    found = Analysers()
    yield found
    found.close()


def finding(line: int = 1, cwe: str | None = "CWE-78", **more: object) -> Finding:
    plain = Finding(
        title="t",
        cwe=cwe,
        severity="low",
        file="a.py",
        line_start=line,
        line_end=line,
        evidence=f"line {line}",
        confidence="low",
        sources=("bandit",),
        rule="B1",
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def analysis(*findings: Finding, analysers: tuple[str, ...] = ("bandit",)) -> Analysis:
    report = FileReport(file="a.py", language="python", parses=True, analysers=analysers)
    return Analysis(findings=tuple(merge(findings)), files=(report,))


# --- what is found ----------------------------------------------------------------------------------------


def test_a_weakness_is_found_in_every_language(analysers: Analysers) -> None:
    seen = analysers.analyse(WEAK)
    assert analysers.isolation == "confined"
    assert {report.file: report.parses for report in seen.files} == dict.fromkeys(WEAK, True)
    for file, expected in EXPECTED.items():
        found = {(each.line_start, each.cwe) for each in seen.findings if each.file == file}
        assert expected <= found, file
    (shell,) = [each for each in seen.findings if (each.file, each.line_start) == ("a.py", 6)]
    assert shell.sources == ("bandit", "ruff")
    assert (shell.severity, shell.evidence) == ("high", "os.system('ls ' + x)")
    assert Analysis.from_json(seen.to_json()).findings == seen.findings


@pytest.mark.parametrize(
    ("file", "line", "text"),
    [
        ("a.py", "os.system('a' + x)", "import os{end}x = '\x0c\x85'{end}os.system('a' + x){end}"),
        (
            "a.c",
            "strcpy(a, b);",
            "/* \x0c\u2028 */{end}void f(char *a, char *b) {{{end} strcpy(a, b);{end}}}{end}",
        ),
        ("a.js", "eval(a);", "// \x0c\u2028{end}{end}eval(a);{end}"),
    ],
)
def test_all_count_the_same_lines_whatever_ends_them(
    analysers: Analysers, file: str, line: str, text: str
) -> None:
    for end in ("\n", "\r\n", "\r"):
        found = analysers.analyse({file: text.format(end=end)}).findings
        lines = {(each.line_start, each.evidence) for each in found}
        assert (3, line) in lines
        assert all(each.evidence for each in found)


@pytest.mark.parametrize(
    ("file", "plain", "hidden"),
    [
        (
            "a.py",
            "import os\nos.system('a' + x)\n",
            "import os\nos.system('a' + x)  # nosec # noqa\n# ruff: noqa\n",
        ),
        (
            "a.c",
            "void f(char *a, char *b) {\n strcpy(a, b);\n}\n",
            "void f(char *a, char *b) {\n strcpy(a, b); /* Flawfinder: ignore */\n}\n",
        ),
    ],
)
def test_code_cannot_switch_rules_off(analysers: Analysers, file: str, plain: str, hidden: str) -> None:
    found = [
        {(each.line_start, each.cwe) for each in analysers.analyse({file: text}).findings}
        for text in (plain, hidden)
    ]
    assert found[0] == found[1] != set()


def test_a_fragment_of_python_is_looked_at_by_what_can_read_it(analysers: Analysers) -> None:
    indented, old = "    import os\n    os.system('a' + x)\n", "    print 'a'\n  os.system('a' + x)\n"
    seen = analysers.analyse({"in.py": indented, "old.py": old})
    sources = {each.file: each.sources for each in seen.findings if each.cwe == "CWE-78"}
    assert sources["in.py"][0] == "bandit"
    assert sources["old.py"] == ("patterns",)
    reports = {report.file: report for report in seen.files}
    assert reports["old.py"].parses is False
    assert "bandit" not in reports["old.py"].analysers
    assert any("bandit cannot read it" in problem for problem in reports["old.py"].problems)


def test_every_rule_is_for_languages_there_are_and_every_language_has_a_grammar() -> None:
    assert len({rule.id for rule in rules()}) == len(rules())
    assert {name for rule in rules() for name in rule.languages} <= set(LANGUAGES)
    assert set(LANGUAGES) <= GRAMMARS.keys()


CONTENT = {
    "python": "import sys\n\ndef main(path):\n    if path is None:\n        return\n",
    "javascript": "const fs = require('fs');\nfs.readFile(p, (e, d) => console.log(d));\n",
    "typescript": "interface User { }\nexport const f = (a: string): number => a.length;\n",
    "go": "package main\n\nfunc main() {\n\tx := 1\n}\n",
    "java": "import java.util.List;\npublic class A { void f() { System.out.println(1); } }\n",
    "c": '#include <stdio.h>\nint main(void) { printf("a"); }\n',
    "cpp": "#include <vector>\nclass A { std::vector<int> v; };\n",
    "rust": 'pub fn f() -> u8 {\n    let mut x = 1;\n    println!("{x}");\n}\n',
    "csharp": "using System;\nnamespace N { class A { string name = null; } }\n",
    "php": "<?php\n$name = $_GET['name'];\n",
    "sql": "SELECT a FROM t WHERE b = 1;\n",
}


def test_a_language_is_told_by_name_by_content_or_by_its_author() -> None:
    assert {name: detect("code", text) for name, text in CONTENT.items()} == {name: name for name in CONTENT}
    assert CONTENT.keys() == set(LANGUAGES)
    assert {detect(file, "") for file in WEAK} == set(LANGUAGES)
    assert (named("C++"), named("cobol")) == ("cpp", None)
    assert detect("code", "Dear all, thank you for coming.") is None
    assert detect("run", "#!/usr/bin/env python3\nprint(1)\n") == "python"


# --- bad input, crashes -----------------------------------------------------------------------------------


def test_whatever_is_sent_has_an_answer(analysers: Analysers) -> None:
    texts = {
        "empty.py": "",
        "deep.py": "x = " + "(" * 3000,
        "nul.c": "int a;\0\0",
        "long.py": "x = 1\n" * 10_000,
        "minified.js": "a=1;" * 20_000,
        "surrogate.py": "x = '\ud800'\n",
        "../../up.go": "package main\n",
        "letter.txt": "Dear all,",
    }
    seen = analysers.analyse(texts)
    reports = {report.file: report for report in seen.files}
    assert reports.keys() == texts.keys()
    assert reports["long.py"].parses is True
    assert reports["deep.py"].parses is False
    assert reports["letter.txt"].language is None
    assert reports["letter.txt"].analysers == ()


def test_a_process_that_is_killed_is_replaced_and_costs_nothing(analysers: Analysers) -> None:
    analysers.analyse({"a.js": "eval(a)"})
    starts = analysers.starts
    assert analysers._process is not None
    os.kill(analysers._process.pid, signal.SIGKILL)
    assert len(analysers.analyse({"a.js": "eval(a)"}).findings) == 1
    assert analysers.starts == starts + 1


def test_what_takes_too_long_is_not_looked_at_and_says_so() -> None:
    impatient = Analysers(timeout_s=0.0)
    (report,) = impatient.analyse({"a.js": "eval(a)"}).files
    impatient.close()
    assert (report.analysers, report.parses) == ((), None)
    assert "did not answer within 0 s" in report.problems[0]


# --- merging and comparing --------------------------------------------------------------------------------


def test_two_analysers_that_name_the_same_weakness_in_overlapping_lines_are_one_finding() -> None:
    other = finding(1, sources=("ruff",), rule="S1", line_end=2, severity="high")
    (one,) = merge([finding(1), other])
    assert (one.sources, one.severity, one.line_end, one.rule) == (("bandit", "ruff"), "high", 2, "B1")
    assert len(merge([finding(1), finding(2), finding(1, "CWE-89"), finding(1, None)])) == 4


def test_the_difference_follows_code_that_has_moved() -> None:
    before = analysis(finding(1), finding(5), finding(9, "CWE-89"))
    moved = finding(11, evidence="line 5")
    after = analysis(moved, finding(2, "CWE-94"))
    difference = compare(before, after)
    assert [each.line_start for each in difference.resolved] == [1, 9]
    assert [each.line_start for each in difference.remaining] == [11]
    assert [each.cwe for each in difference.new] == ["CWE-94"]


def test_another_rule_of_the_same_analyser_is_another_weakness_and_of_another_one_may_be_the_same() -> None:
    before, text = analysis(finding(1)), "something else"
    other = compare(before, analysis(finding(1, rule="B2", evidence=text)))
    assert (len(other.resolved), len(other.new)) == (1, 1)
    seen_by_another = finding(1, rule="python-shell", sources=("patterns",), evidence=text)
    same = compare(before, analysis(seen_by_another, analysers=("bandit", "patterns")))
    assert (len(same.remaining), same.resolved, same.new) == (1, (), ())


def test_nothing_is_resolved_where_the_analyser_could_not_look_again() -> None:
    difference = compare(analysis(finding(1)), analysis(analysers=("patterns",)))
    assert difference.resolved == ()
    assert [each.line_start for each in difference.unchecked] == [1]
