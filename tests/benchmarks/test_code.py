"""What the benchmark of code analysis counts, and the table by which its model repairs."""

from __future__ import annotations

import json

from benchmarks import code
from benchmarks.code_model import answer, completion, repaired

from raymill.evaluate.analysers.findings import Analysis, FileReport, Finding


def seen(line: int, cwe: str) -> Analysis:
    found = Finding(
        title="t",
        cwe=cwe,
        severity="low",
        file="snippet.py",
        line_start=line,
        line_end=line,
        evidence="",
        confidence="low",
        sources=("bandit",),
    )
    report = FileReport(file="snippet.py", language="python", parses=True, analysers=("bandit",))
    return Analysis(findings=(found,), files=(report,))


def test_a_finding_counts_within_three_lines_and_with_the_labelled_cwe() -> None:
    row = code.snippet(
        {
            "language": "python",
            "cwe_identifier": "CWE-78",
            "line_text": "  os.system(x)",
            "origin_code": "a\nb\nos.system(x)\n",
        }
    )
    assert row.lines == {3}
    judged = [code.judge(row, each) for each in (seen(6, "CWE-78"), seen(7, "CWE-78"), seen(3, "CWE-94"))]
    assert [(each.cwe, each.line) for each in judged] == [(True, True), (False, False), (False, True)]
    shares = code.recall(judged)
    assert (shares["cwe_recall"], shares["line_recall"]) == (0.3333, 0.6667)
    assert shares["by_language"]["c"] == {"rows": 0, "cwe_recall": None, "line_recall": None}


def test_the_model_repairs_what_its_table_knows_and_keeps_the_rest() -> None:
    weak = "def f(x):\n    return hashlib.md5(x)\n    subprocess.run(x, shell=True)\n"
    assert repaired(weak) == weak.replace("md5", "sha256").replace("True", "False")
    files = json.dumps({"files": [{"name": "a.py", "text": weak}]})
    asked = f"<data-1>\n## files\n{files}\n</data-1>\n\nWrite every file anew in full."
    assert answer(asked) == {"files": [{"name": "a.py", "text": repaired(weak)}]}
    said = json.loads(
        completion([{"role": "user", "content": "Compare the original with the rebuilt files."}])
    )
    assert json.loads(said["choices"][0]["message"]["content"])["confidence"] == 50
