"""HumanEval: Python functions to complete from their docstring, judged by running tests.

Reads the public layout (`task_id`, `prompt`, `canonical_solution`, `test`, `entry_point`), asks as lm-eval's tasks
`humaneval` (the prompt as it stands) and `humaneval_instruct` do, with the same stops, and counts pass@k. Knows
nothing of models.

Source: Chen et al., Evaluating Large Language Models Trained on Code, 2021, arXiv:2107.03374.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymill.evaluate.config import HumanEvalTask
from raymill.evaluate.prompts import Conversation
from raymill.evaluate.row_files import check_file, rows_of
from raymill.evaluate.samples import Record
from raymill.evaluate.sandbox.runner import Program, Sandbox, Verdict
from raymill.policies.errors import Invalid

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where an answer ends: the function is over. Those of lm-eval 0.4.13, as of Chen et al."""

FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
"""A block of code in an answer; one that was cut has no end."""

FUTURE = re.compile(r"^from __future__ import (?:\([^)]*\)|.*)(?:\n|\Z)", re.MULTILINE)

FIELDS = ("task_id", "prompt", "test", "entry_point")


@dataclass(frozen=True, kw_only=True)
class Problem:
    index: int
    """Place in the file, from 0."""

    task_id: str
    prompt: str
    """Python up to the end of the function's docstring."""

    test: str
    """Python that defines `check(candidate)`."""

    entry_point: str
    """Name of the function."""

    canonical_solution: str
    """A body that passes; empty when the file has none."""


def read_problems(path: Path, limit: int | None = None, sha256: str | None = None) -> list[Problem]:
    """The first `limit` problems of a jsonl, jsonl.gz or parquet file.

    Raises:
        NotFound: there is no such file.
        Invalid: it is another file than `sha256` says, or not in the layout; a test needs more than the standard
            library, which is all that a sandbox holds.
    """
    check_file(path, sha256, "one in the layout of HumanEval")
    problems: list[Problem] = []
    for number, row in enumerate(rows_of(path)):
        if limit is not None and number >= limit:
            break
        problems.append(problem_of(row, number, f"{path.name}, row {number + 1}"))
    if not problems:
        raise Invalid(f"{path.name} holds no problem: give a file in the layout of HumanEval")
    ids = [problem.task_id for problem in problems]
    if twice := {task_id for task_id in ids if ids.count(task_id) > 1}:
        raise Invalid(f"{path.name} has {min(twice)} twice: keep one of them")
    return problems


def problem_of(row: Any, index: int, where: str) -> Problem:
    """One row of the file.

    Raises:
        Invalid: as for `read_problems`.
    """
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in FIELDS):
        raise Invalid(
            f"{where} needs the text fields {', '.join(FIELDS)}: give a file in the layout of HumanEval"
        )
    solution = row.get("canonical_solution")
    problem = Problem(
        index=index,
        canonical_solution=solution if isinstance(solution, str) else "",
        **{key: row[key] for key in FIELDS},
    )
    prompt, test = _parsed(problem.prompt, f"{where}: prompt"), _parsed(problem.test, f"{where}: test")
    if problem.entry_point not in _functions(prompt):
        raise Invalid(f"{where}: the prompt does not define {problem.entry_point}, its entry_point")
    if "check" not in _functions(test):
        raise Invalid(f"{where}: the test does not define check(candidate)")
    if missing := sorted((_imports(prompt) | _imports(test)) - sys.stdlib_module_names):
        raise Invalid(
            f"{where} imports {missing[0]}: the sandbox holds the standard library only; leave it out"
        )
    return problem


def _parsed(source: str, what: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Invalid(f"{what} is no Python: {error}") from error


def _functions(module: ast.Module) -> set[str]:
    return {part.name for part in module.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}


def _imports(module: ast.Module) -> set[str]:
    """Names of the packages that are imported anywhere in it."""
    found: set[str] = set()
    for part in ast.walk(module):
        if isinstance(part, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            found.add((part.module or "").partition(".")[0])
    return found


def conversation_of(problem: Problem) -> Conversation:
    """The question and the beginning of its answer, as lm-eval's `humaneval_instruct` puts them."""
    asked = (
        "Write a solution to the following problem and make sure that it passes the tests:\n"
        f"```python\n{problem.prompt}\n```\n"
    )
    begun = f"Here is the completed function:\n```python\n{problem.prompt}\n"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": begun}]


def prompts_of(tokenizer: Any, config: HumanEvalTask, asked: Sequence[tuple[Problem, int]]) -> list[str]:
    """What a model is to go on with for each of `asked`, a problem and which of its answers it is."""
    if not config.chat_template:
        return [problem.prompt for problem, _ in asked]
    begun: list[str] = [
        tokenizer.apply_chat_template(conversation_of(problem), tokenize=False, continue_final_message=True)
        for problem, _ in asked
    ]
    return begun


def judged(
    config: HumanEvalTask,
    asked: Sequence[tuple[Problem, int]],
    prompts: Sequence[str],
    answers: Sequence[str],
    programs: int,
    whole: Callable[[Problem, str], str] | None = None,
) -> list[Record]:
    """Run each answer, `programs` at once, and make its record.

    Args:
        whole: makes the program of a problem and an answer, by default `solution_of`.

    Raises:
        SandboxRefused: the machine cannot enforce the sandbox's limits.
    """
    whole = whole or solution_of
    solutions = [
        (problem, whole(problem, answer)) for (problem, _), answer in zip(asked, answers, strict=True)
    ]
    verdicts = run_all(Sandbox(config.sandbox), solutions, programs)
    return [
        record_of(problem, sample, prompt, answer, verdict)
        for (problem, sample), prompt, answer, verdict in zip(asked, prompts, answers, verdicts, strict=True)
    ]


def first_of(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of `stops`."""
    return min((text.partition(stop)[0] for stop in stops), key=len)


def solution_of(problem: Problem, answer: str) -> str:
    """The whole program. In an answer to a conversation the code ends where its block does."""
    return problem.prompt + answer.partition("```")[0]


def program_of(problem: Problem, answer: str) -> str:
    """The whole program of an answer that stands by itself, as chat models give it: its first block of Python, or all of
    it. Where it defines the function, what stands before that in the prompt (imports, helpers) is put before it; else it
    is taken for the function's body."""
    fenced = FENCED.search(answer)
    code = fenced[1] if fenced is not None else answer
    head = f"def {problem.entry_point}("  # not `def add10` for `add1`
    if head not in code:
        return problem.prompt + code
    # Python takes `from __future__` at a file's beginning alone.
    futures = "".join(f"{found[0].strip()}\n" for found in FUTURE.finditer(code))
    return futures + problem.prompt.partition(head)[0].removesuffix("async ") + FUTURE.sub("", code)


def run_all(sandbox: Sandbox, solutions: Sequence[tuple[Problem, str]], programs: int) -> list[Verdict]:
    """A verdict for each solution, which is the whole program; `programs` run at once.

    Raises:
        SandboxRefused: the machine cannot enforce the sandbox's limits.
    """

    def run(one: tuple[Problem, str]) -> Verdict:
        problem, solution = one
        return sandbox.run(
            Program(
                solution=solution, prompt=problem.prompt, test=problem.test, entry_point=problem.entry_point
            )
        )

    with ThreadPoolExecutor(programs) as threads:
        return list(threads.map(run, solutions))


def record_of(problem: Problem, sample: int, prompt: str, answer: str, verdict: Verdict) -> Record:
    """One line of the published samples; `prompt` as the model saw it. `doc_hash` is what paired tests join on."""
    return {
        "index": problem.index,
        "sample": sample,
        "task_id": problem.task_id,
        "doc_hash": hashlib.sha256((problem.prompt + problem.test).encode()).hexdigest(),
        "prompt": prompt,
        "reference": problem.canonical_solution,
        "answer": answer,
        "score": float(verdict.passed),
        "reason": verdict.reason or "",
        "detail": verdict.detail,
        "seconds": verdict.seconds,
        "output": verdict.output,
    }


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of `k` answers passes (Chen et al. 2021, eq. 1).

    Args:
        samples: answers to the problem (n), at least `k`.
        passed: how many of them pass (c).
    """
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def metrics_of(records: Sequence[Record], ks: Sequence[int]) -> dict[str, float]:
    """`pass@k` for each of `ks`, the mean over the problems."""
    scores: dict[int, list[float]] = defaultdict(list)
    for record in records:
        scores[record["index"]].append(record["score"])
    return {
        f"pass@{k}": sum(pass_at_k(len(of_one), int(sum(of_one)), k) for of_one in scores.values())
        / len(scores)
        for k in ks
    }
