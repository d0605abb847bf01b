from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.conftest import SHARED_DATA
from tests.evaluate.pools import InThisProcess
from tests.lines import json_lines

from raymill.cluster.context import LocalContext
from raymill.evaluate import jobs
from raymill.evaluate.actors import ActorPool
from raymill.evaluate.config import EvaluateConfig, PerplexityTask
from raymill.evaluate.gguf_model import GgufModel
from raymill.evaluate.hf_model import HfModel
from raymill.evaluate.perplexity import Reading, metrics_of, read_documents, reading_of, spans_of
from raymill.evaluate.tasks import TaskResult, check_files, run_perplexity
from raymill.policies.errors import Invalid, NotFound
from raymill.registry import samples
from raymill.registry.artifacts import ArtifactStore

TEXTS = ["the parcel is late", "please help", "my order is wrong now, the screen is broken"]


def written(folder: Path, rows: Sequence[Any], name: str = "text.jsonl") -> Path:
    path = folder / name
    content = json_lines(rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def documents_in(folder: Path) -> Path:
    return written(folder, [{"text": text} for text in TEXTS])


def test_windows_judge_each_token_once_with_what_the_stride_leaves_before_it() -> None:
    spans = spans_of(7, 10, Reading(window=4, stride=2))
    assert [tuple(span) for span in spans] == [(7, 0, 4, 3), (7, 2, 6, 2), (7, 4, 8, 2), (7, 6, 10, 2)]
    assert [tuple(span) for span in spans_of(0, 3, Reading(window=4, stride=2))] == [(0, 0, 3, 2)]
    for tokens in range(2, 40):
        for window in range(2, 12):
            for stride in range(1, window):
                judged = [
                    token
                    for span in spans_of(0, tokens, Reading(window, stride))
                    for token in range(span.end - span.counted, span.end)
                    if span.begin < span.end - span.counted and span.end - span.begin <= window
                ]
                assert judged == list(range(1, tokens)), (tokens, window, stride)


def test_the_window_is_the_models_context_where_that_is_less_than_1024() -> None:
    task = PerplexityTask(perplexity="a.txt")
    assert reading_of(task, 2048, "m") == Reading(1024, 512)
    assert reading_of(task, 100, "m") == Reading(100, 50)
    assert reading_of(task, None, "m") == Reading(1024, 512)
    with pytest.raises(Invalid, match="window is 200, but the context of m is 100: lower window"):
        reading_of(task.model_copy(update={"window": 200}), 100, "m")
    with pytest.raises(Invalid, match="stride is 100, and the window 100"):
        reading_of(task.model_copy(update={"stride": 100}), 100, "m")


def test_all_documents_together_make_the_metrics() -> None:
    records = [
        {"nll": 3 * math.log(2), "tokens": 2, "words": 1, "bytes": 4},
        {"nll": 5 * math.log(2), "tokens": 6, "words": 3, "bytes": 12},
    ]
    # 8 bits over 8 tokens, 4 words, 16 bytes.
    assert metrics_of(records) == {
        "token_perplexity": pytest.approx(2),
        "word_perplexity": pytest.approx(4),
        "byte_perplexity": pytest.approx(math.sqrt(2)),
        "bits_per_byte": pytest.approx(0.5),
    }
    hopeless = metrics_of([{"nll": 1e6, "tokens": 1, "words": 1, "bytes": 1}])
    assert math.isfinite(hopeless["token_perplexity"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_are_documents_and_a_text_file_is_one(tmp_path: Path, name: str) -> None:
    task = PerplexityTask(
        perplexity=str(written(tmp_path, [{"text": t, "id": 1} for t in TEXTS], name)), limit=2
    )
    assert [(each.index, each.text) for each in read_documents(task)] == [(0, TEXTS[0]), (1, TEXTS[1])]
    (tmp_path / "a.txt").write_text("Größe  42\n\nx\n", encoding="utf-8")
    (only,) = read_documents(PerplexityTask(perplexity=str(tmp_path / "a.txt")))
    assert (only.words, only.size_bytes) == (3, 15)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "text.jsonl, line 2 is no JSON"),
        (b"\xff", "text.jsonl, line 2 is no JSON"),
        (b"[" * 100_000, "text.jsonl, line 2 is no JSON"),
        (b"[1]", "text.jsonl, row 2 has no text: give a text file"),
        (b'{"txt": "x"}', "text.jsonl, row 2 has no text"),
        (b'{"text": 5}', "text.jsonl, row 2 has no text"),
        (b'{"text": " \\n"}', "text.jsonl, row 2 is blank: leave it out"),
        (b'{"text": "\\ud800"}', "text.jsonl, row 2 has half a surrogate pair"),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "text.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b"\n")
    with pytest.raises(Invalid, match=rf"^{message}"):
        check_files((PerplexityTask(perplexity=str(path)),))


def test_a_file_that_is_missing_empty_changed_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no file .*gone\.txt: give a text file"):
        read_documents(PerplexityTask(perplexity=str(tmp_path / "gone.txt")))
    for name, content, message in (
        ("empty.jsonl", b"\n", r"empty\.jsonl holds no document"),
        ("empty.txt", b"", r"empty\.txt is blank"),
        ("latin.txt", b"Gr\xf6\xdfe", r"latin\.txt is no UTF-8 text"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Invalid, match=message):
            read_documents(PerplexityTask(perplexity=str(tmp_path / name)))
    changed = PerplexityTask(perplexity=str(tmp_path / "latin.txt"), sha256="0" * 64)
    with pytest.raises(Invalid, match="it has changed"):
        read_documents(changed)


class OneBit:
    """A byte is a token, and each costs one bit."""

    def __init__(self, cost: float = math.log(2)) -> None:
        self.cost = cost
        self.scored = 0

    def encode(self, texts: list[str]) -> dict[str, Any]:
        return {"ids": [[256, *text.encode()] for text in texts], "context": 8}

    def score(self, windows: list[list[int]], counted: list[int]) -> list[float]:
        assert all(len(window) <= 8 for window in windows)
        self.scored += len(windows)
        return [count * self.cost for count in counted]


def measured(folder: Path, model: object, task: PerplexityTask, batch: int = 2) -> TaskResult:
    context = LocalContext(folder, name="tiny")
    return run_perplexity(context, cast(ActorPool, InThisProcess(model)), task, EvaluateConfig(batch=batch))


def test_sums_by_document_are_kept_and_the_next_attempt_reads_the_rest(tmp_path: Path) -> None:
    task = PerplexityTask(perplexity=str(documents_in(tmp_path)), metric="bits_per_byte")
    model = OneBit()
    result = measured(tmp_path, model, task)
    assert result.metrics == {"perplexity": pytest.approx(1.0)}
    assert result.details["perplexity"]["byte_perplexity"] == pytest.approx(2.0)
    sizes, words = [18, 11, 43], [4, 2, 9]
    assert result.details["perplexity"]["word_perplexity"] == pytest.approx(2 ** (sum(sizes) / sum(words)))
    records = result.records["perplexity"]
    assert [(each["tokens"], each["bytes"], each["words"]) for each in records] == [
        (size, size, count) for size, count in zip(sizes, words, strict=True)
    ]
    assert [each["nll"] for each in records] == pytest.approx([size * math.log(2) for size in sizes])
    assert [each["score"] for each in records] == pytest.approx([1.0] * 3)
    assert {(each["metric"], each["higher_is_better"]) for each in records} == {
        ("bits_per_byte, window 8, stride 4", False)
    }

    log = tmp_path / "work" / "local" / "samples" / "windows" / "perplexity.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + lines[1][:9])  # killed here
    again = OneBit()
    assert measured(tmp_path, again, task) == result
    assert again.scored == model.scored - 2


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_likelihood_that_is_no_number_is_refused_and_not_kept(tmp_path: Path, cost: float) -> None:
    task = PerplexityTask(perplexity=str(documents_in(tmp_path)))
    with pytest.raises(
        Invalid, match=r"the log-likelihood of document 1 is (nan|inf): evaluate with dtype float32"
    ):
        measured(tmp_path, OneBit(cost), task)
    assert not (tmp_path / "work" / "local" / "samples" / "windows" / "perplexity.jsonl").exists()


def test_a_document_that_is_nothing_to_the_tokenizer_is_refused(tmp_path: Path) -> None:
    class Deaf(OneBit):
        def encode(self, texts: list[str]) -> dict[str, Any]:
            return {"ids": [[256] for _ in texts], "context": 8}

    with pytest.raises(Invalid, match="document 1 is nothing to the tokenizer of tiny: leave it out"):
        measured(tmp_path, Deaf(), PerplexityTask(perplexity=str(documents_in(tmp_path))))


def by_the_guide(model: HfModel, text: str, window: int, stride: int) -> float:
    """Nats of a text by the loop of Hugging Face's guide, with the start token, and sums in place of means."""
    ids = torch.tensor(
        [[model.tokenizer.eos_token_id, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]]
    )
    total, before = 0.0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + window, ids.size(1))
        part, labels = ids[:, begin:end], ids[:, begin:end].clone()
        labels[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = model.model(part, labels=labels).loss
        total += float(loss) * int((labels[:, 1:] != -100).sum())
        before = end
        if end == ids.size(1):
            break
    return total


def test_a_model_and_its_file_are_as_surprised_as_huggingfaces_guide_says(
    tiny_model: Path, f16: Path, tmp_path: Path
) -> None:
    model = HfModel(str(tiny_model))
    task = PerplexityTask(perplexity=str(documents_in(tmp_path)), window=12, stride=5)
    of_model = measured(tmp_path, model, task, batch=3).records["perplexity"]
    expected = [by_the_guide(model, text, 12, 5) for text in TEXTS]
    assert [each["nll"] for each in of_model] == pytest.approx(expected, rel=1e-4)
    assert of_model[2]["tokens"] > 12

    file = GgufModel(str(tiny_model))
    context = LocalContext(tmp_path, name="tiny")
    of_file = run_perplexity(context, cast(ActorPool, InThisProcess(file)), task, EvaluateConfig(), f16)
    file.close()
    assert [each["nll"] for each in of_file.records["perplexity"]] == pytest.approx(expected, rel=0.02)
    assert [each["tokens"] for each in of_file.records["perplexity"]] == [each["tokens"] for each in of_model]

    # A model that finds every token equally likely has as many to choose from as there are.
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
    uniform = measured(tmp_path / "uniform", model, task).details["perplexity"]
    assert uniform["token_perplexity"] == pytest.approx(model.model.config.vocab_size, rel=1e-4)


def test_short_documents_are_as_likely_as_lm_eval_says(tiny_model: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HfModel(str(tiny_model))
    records = measured(tmp_path, model, PerplexityTask(perplexity=str(documents_in(tmp_path)))).records
    lm = HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=1, backend="causal")
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=number)
        for number, text in enumerate(TEXTS)
    ]
    theirs = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    assert [-each["nll"] for each in records["perplexity"]] == pytest.approx(theirs, rel=1e-4)


def test_a_prompt_longer_than_the_workers_batch_is_scored_whole(tiny_model: Path, f16: Path) -> None:
    model, file = HfModel(str(tiny_model)), GgufModel(str(tiny_model))
    ids = model.encode([" ".join(TEXTS * 20)])["ids"][0]
    window = (ids * (1 + 512 // len(ids)))[:512]
    of_model = [model.score([window], [count])[0] for count in (511, 1)]
    of_file = [file.score(str(f16), [window], [count])[0] for count in (511, 1)]
    file.close()
    assert of_file == pytest.approx(of_model, rel=0.03)


def test_published_samples_are_compared_by_document_and_less_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = PerplexityTask(perplexity=str(documents_in(tmp_path)), name="small")
    found: list[samples.Samples] = []
    for cost, address in ((1.0, "000000000001"), (2.0, "000000000002")):
        monkeypatch.setattr(jobs, "ActorPool", lambda *_, cost=cost, **__: InThisProcess(OneBit(cost)))
        monkeypatch.setattr(jobs, "pool_size", lambda _: None)
        inputs = {"train": {"artifact": "model"}}
        context = LocalContext(tmp_path, name="tiny", job_id=address, address=address, inputs=inputs)
        results = jobs.evaluate_model(context, EvaluateConfig(tasks=(task,)), [], "train")
        published = context.publish("evaluation", jobs.write_samples(context, results))
        (file,) = [each for each in published.files if each.path == "small.parquet"]
        where = samples.SampleFile(
            label=address, task="small", artifact_name=published.name, file=file, variant=""
        )
        found.append(samples.read(ArtifactStore(tmp_path / "artifacts"), where))
    paired = samples.pair(*found)
    assert paired.statistics.examples == 3
    assert paired.statistics.mean_a == pytest.approx(paired.statistics.mean_b / 2)
    assert (paired.statistics.wins, paired.statistics.losses) == (3, 0)
    assert (paired.only_a, paired.only_b, paired.asked_differently) == (0, 0, 0)


@pytest.mark.real_data
def test_public_text_is_read_as_one_document() -> None:
    (document,) = read_documents(PerplexityTask(perplexity=str(SHARED_DATA / "text" / "wikitext2_test.txt")))
    assert (document.words, document.size_bytes) == (241_211, 1_256_449)
