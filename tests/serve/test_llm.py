"""Real engines through the real gateway: vLLM and llama.cpp on a tiny signed model, behind HAProxy."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
import pytest
from tests.serve.conftest import Endpoint, application, signed_spec
from tests.waiting import eventually

from raymill.cluster.settings import Settings
from raymill.cluster.supervisor import leftovers
from raymill.registry.signing_keys import KeyRing
from raymill.serve.llm.config import ServeConfig

QUESTIONS = ["my parcel is late", "the invoice is wrong, refund please", "Größe 42 €: screen broken\tnow"]


class Expected(NamedTuple):
    """What Hugging Face makes of a question."""

    prompt_ids: list[int]
    answer: str


@pytest.fixture
def client(served: Endpoint) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.base_url, api_key=served.api_key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(model_directory: Path) -> list[Expected]:
    """Greedy answers of 24 tokens by Hugging Face."""
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(model_directory)
    model: Any = LlamaForCausalLM.from_pretrained(model_directory, dtype=torch.float32)
    found = []
    for question in QUESTIONS:
        inputs = tokenizer.apply_chat_template(
            asking(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0]
        prompt_ids = inputs["input_ids"][0].tolist()
        answer = tokenizer.decode(made[len(prompt_ids) :], skip_special_tokens=True)
        found.append(Expected(prompt_ids, answer))
    return found


def asking(question: str) -> list[Any]:
    return [{"role": "user", "content": question}]


def greedy(client: openai.OpenAI, model: str, question: str) -> Any:
    return client.chat.completions.create(
        model=model, messages=asking(question), max_tokens=24, temperature=0.0
    )


@pytest.mark.parametrize("model", ["triage", "triage-q8"])
def test_an_engine_reads_the_prompt_as_hugging_face_does(
    client: openai.OpenAI, expected: list[Expected], model: str
) -> None:
    for question, want in zip(QUESTIONS, expected, strict=True):
        assert greedy(client, model, question).usage.prompt_tokens == len(want.prompt_ids)


def test_vllm_answers_as_hugging_face_does(client: openai.OpenAI, expected: list[Expected]) -> None:
    for question, want in zip(QUESTIONS, expected, strict=True):
        answer = greedy(client, "triage@production", question)
        assert answer.choices[0].message.content == want.answer
        assert answer.model == "triage@1"


def counted(usage: Any) -> tuple[int, int, int]:
    """Without what was cached: the same question asked again finds more."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


@pytest.mark.parametrize("model", ["triage", "triage-q8"])
def test_a_stream_holds_the_same_answer_and_the_usage(client: openai.OpenAI, model: str) -> None:
    plain = greedy(client, model, QUESTIONS[0])
    stream = client.chat.completions.create(
        model=model,
        messages=asking(QUESTIONS[0]),
        max_tokens=24,
        temperature=0.0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == plain.choices[0].message.content
    assert len([text for text in texts if text]) > 3
    assert counted(chunks[-1].usage) == counted(plain.usage)
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finish[-1] == plain.choices[0].finish_reason


@pytest.mark.parametrize("model", ["triage", "triage-q8"])
def test_completions_are_answered_plain_and_streamed(client: openai.OpenAI, model: str) -> None:
    plain = client.completions.create(model=model, prompt="my parcel", max_tokens=8, temperature=0.0)
    stream = client.completions.create(
        model=model, prompt="my parcel", max_tokens=8, temperature=0.0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == plain.choices[0].text
    assert plain.usage is not None
    assert plain.usage.completion_tokens <= 8


@pytest.mark.parametrize("model", ["triage", "triage-q8"])
def test_what_does_not_fit_the_model_is_the_clients_error(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model=model, messages=asking("hi"), max_tokens=5000)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=model, messages=asking("hi"), extra_body={"temperature": "warm"})


def test_vllm_takes_tools_that_the_model_may_call(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    answer = client.chat.completions.create(
        model="triage", messages=asking(QUESTIONS[0]), tools=[tool], max_tokens=8, temperature=0.0
    )
    # This one was never taught to: what it says is no call, and arrives as text.
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > greedy(client, "triage", QUESTIONS[0]).usage.prompt_tokens


def test_llama_cpp_answers_in_json_when_asked_and_refuses_what_it_cannot(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"late": {"type": "boolean"}},
        "required": ["late"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="triage-q8",
        messages=asking("late?"),
        max_tokens=60,
        temperature=0.0,
        response_format={"type": "json_schema", "json_schema": {"name": "late", "schema": schema}},
    )
    assert (answer.choices[0].message.content or "").replace(" ", "").startswith('{"late":')
    with pytest.raises(openai.BadRequestError, match="logprobs is not supported by engine llama_cpp"):
        client.chat.completions.create(model="triage-q8", messages=asking("hi"), logprobs=True)


@pytest.mark.parametrize("model", ["triage", "triage-q8"])
def test_a_client_that_goes_away_frees_the_engine(served: Endpoint, model: str) -> None:
    body = {"model": model, "messages": asking("hi"), "stream": True, "max_tokens": 200}
    if model == "triage":
        body["ignore_eos"] = True
    headers = {"Authorization": f"Bearer {served.api_key}"}
    url = f"{served.base_url}/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        assert next(response.iter_lines()).startswith("data: ")
    eventually(lambda: unfinished(model) == 0)


def unfinished(model: str) -> int:
    from ray import serve

    handle = serve.get_deployment_handle("engine", f"tests-{model}")
    return int(handle.unfinished.remote().result(timeout_s=60))


def test_many_clients_are_answered_at_once(client: openai.OpenAI) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: greedy(client, "triage", QUESTIONS[0]), range(32)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_an_engine_killed_in_a_stream_ends_it_with_an_error_and_comes_back(
    client: openai.OpenAI, served: Endpoint
) -> None:
    # Long enough that it is not over when its first token has come.
    long: dict[str, object] = {"max_tokens": 200, "ignore_eos": True}
    body = {"model": "triage", "messages": asking(QUESTIONS[0]), "stream": True, **long}
    headers = {"Authorization": f"Bearer {served.api_key}"}
    url = f"{served.base_url}/chat/completions"
    replica = replica_process("triage")
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        first = next(lines)
        replica.kill()
        events = [line for line in lines if line]
    assert first.startswith("data: ")
    assert '"engine_unavailable"' in events[-1]
    assert "[DONE]" not in events[-1]
    eventually(lambda: answers(client, "triage"), within_s=180)


def replica_process(model: str) -> psutil.Process:
    """The engine's process, looked for among those of the tests' own service."""
    title = f"ray::ServeReplica:tests-{model}:engine"
    return next(process for process in leftovers(Settings()) if process.cmdline()[:1] == [title])


def answers(client: openai.OpenAI, model: str) -> bool:
    try:
        greedy(client, model, "hi")
    except openai.InternalServerError:
        return False
    return True


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("engine", ["vllm", "llama_cpp"])
def test_tampered_weights_are_refused_before_they_are_loaded(
    model_directory: Path, keys: KeyRing, tmp_path: Path, engine: str
) -> None:
    from ray import serve

    from raymill.serve.llm.build import build_engine, reason_of

    directory = tmp_path / "tampered"
    shutil.copytree(model_directory, directory)
    if engine == "vllm":
        spec = signed_spec(directory, keys, name="bad", config=ServeConfig())
    else:
        config = ServeConfig(engine="llama_cpp", quantization="Q8_0")
        spec = signed_spec(directory, keys, name="bad-q8", config=config, gguf_file="model.safetensors")
    with (directory / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    started = time.monotonic()
    with pytest.raises(RuntimeError):
        serve.run(build_engine(spec), name=application(spec), route_prefix=None)
    took_s = time.monotonic() - started
    status = serve.status().applications[application(spec)]
    serve.delete(application(spec))
    assert status.status == "DEPLOY_FAILED"
    told = reason_of(next(iter(status.deployments.values())).message)
    assert told.startswith("model.safetensors in artifact tampered has sha256")
    assert "restore it from a backup" in told
    assert took_s < 60
