"""From kept requests to training rows: what was asked, and the answer that people would rather have had. Pure.

Every wire's request becomes a chat request by the gateway's own translators. What cannot be trained on (pictures,
prompts that were too long to be kept, answers without text) is left out, and counted by its reason.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from raymill.policies.errors import RaymillError
from raymill.registry.artifacts import canonical_json
from raymill.registry.traffic import Kept
from raymill.serve.gateway.mask import mask_text
from raymill.serve.gateway.wires.anthropic_answer import answer_of_messages
from raymill.serve.gateway.wires.anthropic_in import chat_of_messages
from raymill.serve.gateway.wires.errors import BadAnswer
from raymill.serve.gateway.wires.responses_in import chat_of_responses

Json = dict[str, Any]

ROLES = {"developer": "system", "function": "tool"}


class LeftOut(Exception):
    """A request that no row is made of; `str(error)` is why."""


class Exchange(NamedTuple):
    """A question, what was answered, and what people said of that."""

    messages: list[Json]
    tools: list[Json]
    answer: Json
    """The assistant's turn."""

    scores: tuple[float, ...]
    correction: str | None
    """Masked, as the question is."""

    def key(self) -> bytes:
        """The same for the same question."""
        return canonical_json([self.messages, self.tools])


def exchanges(kept: Iterable[Kept], left_out: Counter[str]) -> Iterator[Exchange]:
    """The requests that rows can be made of; the others are counted."""
    for one in kept:
        try:
            yield exchange(one)
        except LeftOut as why:
            left_out[str(why)] += 1


def exchange(kept: Kept) -> Exchange:
    """
    Raises:
        LeftOut: no row can be made of it.
    """
    if kept.prompt.get("left_out"):
        raise LeftOut("the prompt was too long to be kept")
    try:
        chat = _chat(kept.operation, kept.prompt)
        messages = [_turn(turn) for turn in chat.get("messages") or []]
        answer = _answer(kept.operation, kept.answer, corrected=kept.correction is not None)
    except (RaymillError, BadAnswer, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise LeftOut("it cannot be read as a conversation") from error
    if not any(turn["role"] == "user" for turn in messages):
        raise LeftOut("nobody asks anything in it")
    correction = mask_text(kept.correction) if kept.correction is not None else None
    return Exchange(messages, chat.get("tools") or [], answer, kept.scores, correction)


def conversations(found: Iterable[Exchange], *, min_score: float | None, feedback: str) -> Iterator[Json]:
    """Rows for fine-tuning. A correction is the target whatever its answer was worth; else an answer is one that nobody
    scored below `min_score`, or below 0 when that is None."""
    for one in found:
        if one.correction is not None:
            yield _row(one, {"role": "assistant", "content": one.correction})
        elif feedback != "corrected" and _good(one, min_score, feedback) and _says_something(one.answer):
            yield _row(one, one.answer)


def preferences(found: Iterable[Exchange], *, min_score: float | None) -> Iterator[Json]:
    """Pairs: a correction before its answer, and the best answer to a question before each that was scored lower."""
    asked: dict[bytes, list[Exchange]] = defaultdict(list)
    for one in found:
        if one.correction is not None and _says_something(one.answer):
            corrected: Json = {"role": "assistant", "content": one.correction}
            if corrected != one.answer:
                yield _pair(one, corrected, one.answer)
        if one.scores and _says_something(one.answer):
            asked[one.key()].append(one)
    for same in asked.values():
        best = max(same, key=lambda one: min(one.scores))
        score = min(best.scores)
        if min_score is not None and score < min_score:
            continue
        for one in same:
            if min(one.scores) < score and one.answer != best.answer:
                yield _pair(one, best.answer, one.answer)


def _row(one: Exchange, answer: Json) -> Json:
    row: Json = {"messages": [*one.messages, answer]}
    return {**row, "tools": one.tools} if one.tools else row


def _pair(one: Exchange, chosen: Json, rejected: Json) -> Json:
    row: Json = {"prompt": one.messages, "chosen": [chosen], "rejected": [rejected]}
    return {**row, "tools": one.tools} if one.tools else row


def _good(one: Exchange, min_score: float | None, feedback: str) -> bool:
    if not one.scores:
        return min_score is None and feedback == "any"
    return min(one.scores) >= (0.0 if min_score is None else min_score)


def _says_something(answer: Json) -> bool:
    return bool(answer.get("tool_calls") or str(answer.get("content") or "").strip())


def _chat(operation: str, body: Json) -> Json:
    match operation:
        case "chat":
            return body
        case "messages":
            return chat_of_messages(body)
        case "responses":
            return chat_of_responses(body)
        case "completions" if isinstance(body.get("prompt"), str):
            return {"messages": [{"role": "user", "content": body["prompt"]}]}
    raise LeftOut(f"it is {operation}, no conversation")


def _turn(turn: Json) -> Json:
    role = ROLES.get(turn["role"], turn["role"])
    kept: Json = {"role": role, "content": _text(turn.get("content"))}
    for key in ("tool_calls", "tool_call_id"):
        if turn.get(key):
            kept[key] = turn[key]
    return kept


def _text(content: Any) -> str:
    """
    Raises:
        LeftOut: it holds more than text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    parts: list[str] = []
    for part in content:
        if part.get("type") not in ("text", "input_text", "output_text", "refusal"):
            raise LeftOut("it holds pictures, sounds or files")
        parts.append(str(part.get("text") or part.get("refusal") or ""))
    return "\n".join(parts)


def _answer(operation: str, answer: Json, *, corrected: bool) -> Json:
    """The assistant's turn; an empty one where the answer was not kept but corrected.

    Raises:
        LeftOut: it was not kept.
    """
    if "text" in answer:
        return {"role": "assistant", "content": answer["text"]}
    if "body" not in answer:
        if corrected:
            return {"role": "assistant", "content": ""}
        raise LeftOut("the answer was too long to be kept")
    body = answer["body"]
    match operation:
        case "completions":
            return {"role": "assistant", "content": str(body["choices"][0]["text"])}
        case "messages":
            return _turn(answer_of_messages(body)["choices"][0]["message"])
        case "responses":
            return _response_turn(body)
    return _turn(body["choices"][0]["message"])


def _response_turn(body: Json) -> Json:
    texts: list[str] = []
    calls: list[Json] = []
    for item in body["output"]:
        if item["type"] == "message":
            texts.append(_text(item["content"]))
        elif item["type"] == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item["call_id"], "type": "function", "function": function})
    turn: Json = {"role": "assistant", "content": "\n".join(texts)}
    return {**turn, "tool_calls": calls} if calls else turn
