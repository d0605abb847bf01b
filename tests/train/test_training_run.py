"""Pre-training and tuning as the job engine runs them, on Ray Train, with workers killed on the way."""

import json
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.lines import json_lines, write_lines

from raymill.cluster.context import JsonObject, LocalContext, Outcome
from raymill.registry.artifacts import digest_files
from raymill.train.card import CARD
from raymill.train.dataset_job import run_dataset
from raymill.train.jobs import run_pretrain, run_train
from raymill.train.launch import TrainingFailed
from raymill.train.metrics import METRICS, read_points

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.timeout(900),
    # Ray 2.60 trips over an option of its own when a trainer is made. Goes when Ray mends it.
    pytest.mark.filterwarnings("ignore:`use_.* is deprecated:DeprecationWarning"),
]

Losses = dict[int, list[float]]


@dataclass
class Killer(LocalContext):
    """A context that kills one worker with -9 when it is told of a step, once there is a checkpoint to go on from."""

    victim: int | None = None
    at_step: int = 12
    saved: bool = False
    pids: dict[int, int] = field(default_factory=dict)

    def event(self, kind: str, **data: Any) -> None:
        super().event(kind, **data)
        if kind == "worker":
            self.pids[data["rank"]] = data["pid"]
        self.saved = self.saved or kind == "checkpoint"
        if kind == "step" and data["step"] >= self.at_step and self.saved and self.victim is not None:
            os.kill(self.pids[self.victim], signal.SIGKILL)
            self.victim = None


def losses(context: LocalContext) -> Losses:
    """Step -> its loss, each time that it was computed."""
    found: Losses = {}
    for kind, data in context.events:
        if kind == "step":
            found.setdefault(data["step"], []).append(data["loss"])
    return found


def texts(context: LocalContext) -> str:
    return "\n".join(data["text"] for kind, data in context.events if kind == "log")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and a data set small enough to train in seconds."""
    directory = tmp_path_factory.mktemp("files")
    rng = random.Random(0)
    things, verbs = ["router", "phone", "invoice", "login"], ["broken", "lost", "slow", "late"]
    documents = [
        f"The {rng.choice(things)} of {n} is {rng.choice(verbs)}.\nHelp comes soon." for n in range(400)
    ]
    (directory / "corpus.txt").write_text("\n\n".join(documents), encoding="utf-8")
    for name, count in (("train", 64), ("test", 4)):
        rows = []
        for number in range(count):
            verb = rng.choice(verbs)
            turns = [("user", f"{name} {number}: it is {verb}."), ("assistant", verb)]
            rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
        text = json_lines(rows)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raymill")


@pytest.fixture(scope="module")
def dataset(files: Path, root: Path) -> JsonObject:
    config = {"train": str(files / "train.jsonl"), "test": str(files / "test.jsonl")}
    return run_dataset(LocalContext(root, job_id="dataset", config=config)).result


@pytest.fixture(scope="module")
def base(files: Path, root: Path, ray_session: None) -> JsonObject:  # noqa: ARG001
    """A base whose worker was killed once; made by the second attempt."""
    context = Killer(root, job_id="base", victim=0, config={
        "text": str(files / "corpus.txt"), "layers": 1, "vocab": 400, "seq_tokens": 32, "batch": 4,
        "steps": 80, "checkpoint_every": 9, "max_failures": 0,
    })  # fmt: skip
    with pytest.raises(TrainingFailed, match="training of local failed"):
        run_pretrain(context)
    done = run_pretrain(context).result
    assert "going on from the checkpoint of step" in texts(context)
    seen = losses(context)
    # None is repeated when it died right after a checkpoint.
    assert all(len(set(values)) == 1 for values in seen.values())
    assert sorted(seen) == list(range(1, 81))
    assert done["final_loss"] < seen[1][0]
    return done


def test_a_base_is_in_hugging_face_layout_with_everything_a_server_reads(
    base: JsonObject, root: Path
) -> None:
    directory = root / "artifacts" / base["artifact"]
    assert {file.path for file in digest_files(directory)} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["head_dim"], config["vocab_size"]) == (256, 64, 400)
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == 2
    assert base["parameters"] == sum(w.numel() for w in load_file(directory / "model.safetensors").values())


def tuned(
    base: JsonObject, dataset: JsonObject, root: Path, job_id: str, victim: int | None = None, **config: Any
) -> tuple[Killer, Callable[[], Outcome]]:
    given = {"batch": 4, "epochs": 5, "checkpoint_every": 9, "learning_rate": 0.003, **config}
    context = Killer(
        root,
        job_id=job_id,
        address=job_id.ljust(12, "0"),
        victim=victim,
        config=given,
        inputs={"base": base, "dataset": dataset},
    )
    return context, lambda: run_train(context)


def test_a_killed_worker_of_two_with_zero_2_costs_no_step_and_changes_no_loss(
    base: JsonObject, dataset: JsonObject, root: Path
) -> None:
    context, run = tuned(base, dataset, root, "zero2", victim=1, lora={"r": 4}, workers=2, zero=2)
    done = run()
    seen = losses(context)
    assert "going on from the checkpoint of step" in texts(context)
    assert all(values == pytest.approx([values[0]] * len(values), rel=1e-6) for values in seen.values())
    assert sorted(seen) == list(range(1, 81))
    assert done.result["steps"] == 80
    assert done.result["final_loss"] < seen[1][0] / 2
    assert done.result["rows"] == 64
    assert 0 < done.result["trained_token_share"] < 1
    assert {published.name for published in done.artifacts} == {
        done.result["artifact"],
        done.result["adapter"],
    }
    assert merged_differs_from(base, done.result, root)

    # The attempt died after its end, before the engine wrote it down: nothing is trained again.
    again = run()
    assert again.result == done.result
    assert "finished before" in texts(context)
    assert losses(context) == seen


def merged_differs_from(base: JsonObject, done: JsonObject, root: Path) -> bool:
    """The merged weights have the base's names and shapes, and some other values."""
    before = load_file(root / "artifacts" / base["artifact"] / "model.safetensors")
    after = load_file(root / "artifacts" / done["artifact"] / "model.safetensors")
    assert {name: w.shape for name, w in after.items()} == {name: w.shape for name, w in before.items()}
    return any(not after[name].equal(before[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 3])
@pytest.mark.parametrize("lora", [{"r": 4}, None])
def test_every_stage_trains_to_the_same_losses(
    base: JsonObject, dataset: JsonObject, root: Path, zero: int, lora: dict[str, int] | None
) -> None:
    kind = "lora" if lora else "full"
    config: JsonObject = {"lora": lora, "epochs": 1, "precision": "fp32"}
    one, run_one = tuned(base, dataset, root, f"one-{kind}-{zero}", **config)
    two, run_two = tuned(base, dataset, root, f"two-{kind}-{zero}", workers=2, zero=zero, **config)
    run_one()
    done = run_two().result
    for step, (loss,) in losses(one).items():
        assert losses(two)[step] == [pytest.approx(loss, rel=1e-3)]
    assert merged_differs_from(base, done, root)


def compared(files: Path, root: Path, shape: str) -> JsonObject:
    """A set of pairs, or of answers that are good or bad."""
    rows: list[JsonObject] = []
    for number in range(64):
        asked = [{"role": "user", "content": f"train {number}: what is it?"}]
        better, worse = ([{"role": "assistant", "content": text}] for text in ("it is broken", "late"))
        if shape == "preference":
            rows.append({"prompt": asked, "chosen": better, "rejected": worse})
        else:
            good = number % 2 == 0
            rows.append({"prompt": asked, "completion": better if good else worse, "label": good})
    path = files / f"{shape}.jsonl"
    write_lines(path, rows)
    config = {"train": str(path), "test": str(path)}
    return run_dataset(LocalContext(root, job_id=shape, config=config)).result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "layout"), [("dpo", {"sharding": "fsdp"}), ("dpo", {"zero": 2}), ("kto", {"zero": 1})]
)
def test_two_workers_that_compare_answers_go_on_after_a_loss_and_measure_held_out_rows(
    base: JsonObject, files: Path, root: Path, method: str, layout: JsonObject
) -> None:
    dataset = compared(files, root, {"dpo": "preference"}.get(method, method))
    job_id = f"{method}-{next(iter(layout))}"
    more: JsonObject = {"lora": {"r": 4}, "epochs": 3, "validation": {"every": 10, "rows": 8}}
    context, run = tuned(
        base, dataset, root, job_id, victim=1, method=method, workers=2,
        early_stop={"patience": 2}, **layout, **more,
    )  # fmt: skip
    done = run()
    seen = losses(context)
    assert "going on from the checkpoint of step" in texts(context)
    assert all(values == pytest.approx([values[0]] * len(values), rel=1e-6) for values in seen.values())
    assert done.result["rows"] == 56
    assert "took the starting model's log-probabilities" in texts(context)
    measured = {data["step"]: data for kind, data in context.events if kind == "validation"}
    assert 10 in measured
    assert measured[max(measured)]["loss"] < measured[10]["loss"]
    assert measured[max(measured)]["reward_margin"] > 0
    points = read_points(root / "artifacts" / done.result["artifact"] / METRICS)
    assert all("reward_margin" in point for point in points if "loss" in point)
    assert any("validation_loss" in point for point in points)
    card = (root / "artifacts" / done.result["artifact"] / CARD).read_text()
    assert ("direct preference" if method == "dpo" else "Kahneman-Tversky") in card
    assert merged_differs_from(base, done.result, root)
