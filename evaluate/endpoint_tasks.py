"""Run the tasks of an evaluation on a model behind HTTP. What becomes of the answers is the same as of a version's.

A question that the endpoint refuses (a content filter, a prompt too long) counts as a wrong answer with its reason in
`error`; how many there were is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from raymill.cluster.context import JobContext
from raymill.evaluate import bfcl, humaneval
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.config import (
    BfclTask,
    EvaluateConfig,
    HumanEvalTask,
    LmEvalTask,
    PerplexityTask,
    Task,
    label_of,
)
from raymill.evaluate.endpoint import Asker, Question, Reply
from raymill.evaluate.exact_match import doc_hash
from raymill.evaluate.lm_eval_tasks import LmEvalTasks
from raymill.evaluate.prompts import Conversation, Row
from raymill.evaluate.samples import Record
from raymill.evaluate.sandbox.runner import Sandbox
from raymill.evaluate.tasks import (
    TaskResult,
    bfcl_result,
    humaneval_result,
    in_order,
    judged,
    lm_eval_result,
)
from raymill.policies.errors import Invalid

PROGRAMS = max(1, (os.cpu_count() or 1) // 2)
"""Programs that are run at once."""


class Asked(NamedTuple):
    """What a task gave, and the keys of the questions that it came of."""

    result: TaskResult
    keys: list[str]


def run_on_endpoint(
    context: JobContext, asker: Asker, task: Task, rows: Sequence[Row], config: EvaluateConfig
) -> Asked:
    """One task.

    Args:
        rows: held-out rows, for the tasks that judge the answers to them.

    Raises:
        Invalid: the task needs likelihoods.
        As `Asker.ask`.
    """
    label = label_of(task)
    if isinstance(task, PerplexityTask):
        raise Invalid(
            f"{label} needs likelihoods of given text, and an endpoint only answers: measure it on a version"
        )
    if isinstance(task, LmEvalTask | BenchmarkTask):
        return of_lm_eval(asker, task)
    if isinstance(task, HumanEvalTask):
        return of_humaneval(asker, task, context.check)
    if isinstance(task, BfclTask):
        return of_bfcl(asker, task)
    # Every held-out measure judges the same answers.
    answers, keys = answered(asker, "heldout", rows, config.max_new_tokens)
    return Asked(judged(task, answers), keys)


def answered(asker: Asker, name: str, rows: Sequence[Row], max_tokens: int) -> tuple[list[Record], list[str]]:
    """The samples of `rows` in their order, without a score, and the keys of their questions."""
    questions = [
        Question(key=f"{name}/{row.index}", messages=row.messages, tools=row.tools, max_tokens=max_tokens)
        for row in rows
    ]
    replies = asker.ask(name, questions)
    records = [record_of(row, reply) for row, reply in zip(rows, replies, strict=True)]
    return records, [each.key for each in questions]


def record_of(row: Row, reply: Reply) -> Record:
    """As `exact_match.record_of`; the prompt is shown as its turns, for the template is the endpoint's."""
    return {
        "index": row.index,
        "doc_hash": doc_hash(row),
        "prompt": shown(row.messages),
        "reference": row.reference,
        "answer": reply["text"],
        "prompt_tokens": reply["prompt_tokens"],
        "answer_tokens": reply["completion_tokens"],
        "finished": reply["finished"],
        "error": reply["error"],
    }


def shown(messages: Conversation) -> str:
    """A conversation for people, and judges, to read."""
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)


def of_bfcl(asker: Asker, task: BfclTask) -> Asked:
    """Functions go as tools. Endpoints take no dots in their names: these travel as underscores, and come back as dots."""
    questions = bfcl.read_questions(task)
    sent = [
        Row(
            index=each.row.index,
            messages=each.row.messages,
            reference=each.row.reference,
            tools=tuple(map(undotted, each.row.tools)),
        )
        for each in questions
    ]
    answers, keys = answered(asker, f"bfcl-{task.name}", sent, task.max_new_tokens)
    named = [
        {**record, "doc_hash": doc_hash(question.row), "answer": dotted(record["answer"], question)}
        for question, record in zip(questions, answers, strict=True)
    ]
    return Asked(bfcl_result(task, questions, named), keys)


def undotted(tool: dict[str, object]) -> dict[str, object]:
    function = tool["function"]
    assert isinstance(function, dict)
    return {**tool, "function": {**function, "name": function["name"].replace(".", "_")}}


def dotted(answer: str, question: bfcl.Question) -> str:
    """The answer with its calls' names as the question has them."""
    for tool in question.row.tools:
        name = tool["function"]["name"]
        answer = answer.replace(f'{{"name": "{name.replace(".", "_")}"', f'{{"name": "{name}"')
    return answer


def of_humaneval(asker: Asker, task: HumanEvalTask, check: Callable[[], None]) -> Asked:
    """Programs are written first, then run, all of them anew in each attempt: that takes no answer.

    Raises:
        SandboxRefused: this machine cannot run code safely; told before anything is asked.
    """
    problems = humaneval.read_problems(Path(task.humaneval), task.limit, task.sha256)
    Sandbox(task.sandbox).prove()
    drawn = {"temperature": task.temperature, "top_p": task.top_p} if task.samples > 1 else {}
    asked = [(problem, sample) for problem in problems for sample in range(task.samples)]
    questions = [
        Question(
            key=f"{task.name}/{problem.index}/{sample}",
            messages=humaneval.conversation_of(problem)[:1],
            max_tokens=task.max_new_tokens,
            more={**drawn, "seed": task.seed + sample} if drawn else {},
        )
        for problem, sample in asked
    ]
    replies = asker.ask(task.name, questions)
    prompts = [shown(each.messages) for each in questions]
    answers = [each["text"] for each in replies]
    records: list[Record] = []
    for start in range(0, len(asked), PROGRAMS):
        check()
        part = slice(start, start + PROGRAMS)
        records += humaneval.judged(
            task, asked[part], prompts[part], answers[part], PROGRAMS, humaneval.program_of
        )
    records = [{**record, "error": reply["error"]} for record, reply in zip(records, replies, strict=True)]
    return Asked(humaneval_result(task, records), [each.key for each in questions])


def of_lm_eval(asker: Asker, task: LmEvalTask | BenchmarkTask) -> Asked:
    """A task of lm-eval that is answered; its prompts, filters and metrics are lm-eval's."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from raymill.evaluate.endpoint_lm import EndpointLM

    tasks = LmEvalTasks(task)
    lm = EndpointLM(task.label, lambda questions: asker.ask(task.label, questions))
    records = tasks.shard(lm, 0, 1)
    in_order(records)
    return Asked(lm_eval_result(task, records, tasks.reported(records)), lm.keys)
