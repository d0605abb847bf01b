"""The generator of the example: same seed same bytes, nothing held out is seen, the answer is a function."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

GENERATOR = Path(__file__).parents[2] / "examples" / "support" / "generate.py"
PRODUCTS = ("atlas", "beacon", "cobalt", "drift", "ember", "fjord", "glint", "harbor", "juno", "ion")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("support")
    generate(directory, 0)
    return directory


def generate(directory: Path, seed: int) -> None:
    subprocess.run(
        [sys.executable, str(GENERATOR), "--out", str(directory), "--seed", str(seed)],
        check=True,
        capture_output=True,
    )


def rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(message, answer) of each row."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        user, assistant = json.loads(line)["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        found.append((user["content"], json.loads(assistant["content"])))
    return found


def product_of(message: str) -> str:
    words = message.lower().replace(".", " ").replace(",", " ").replace(":", " ").split()
    (product,) = {word for word in words if word in PRODUCTS}
    return product


def test_the_sizes_are_as_promised(made: Path) -> None:
    assert len(rows(made / "train.jsonl")) == 2000
    assert len(rows(made / "heldout.jsonl")) == 200
    assert (made / "corpus.txt").read_text().count("\n\n") + 1 >= 6000


def test_no_combination_that_is_held_out_is_trained_on(made: Path) -> None:
    cases = {
        name: {(a["intent"], a["urgency"], product_of(m)) for m, a in rows(made / f"{name}.jsonl")}
        for name in ("train", "heldout")
    }
    assert cases["train"] & cases["heldout"] == set()
    assert len(cases["heldout"]) == 24
    trained = {(intent, product) for intent, _, product in cases["train"]}
    assert {(intent, product) for intent, _, product in cases["heldout"]} <= trained


def test_the_team_follows_from_intent_and_product(made: Path) -> None:
    team: dict[tuple[str, str], str] = {}
    for message, answer in rows(made / "train.jsonl") + rows(made / "heldout.jsonl"):
        key = (answer["intent"], product_of(message))
        assert team.setdefault(key, answer["team"]) == answer["team"]
    assert len(set(team.values())) >= 8


def test_no_message_is_in_both_sets_and_the_corpus_has_no_answer(made: Path) -> None:
    train, heldout = rows(made / "train.jsonl"), rows(made / "heldout.jsonl")
    assert {m for m, _ in train} & {m for m, _ in heldout} == set()
    corpus = (made / "corpus.txt").read_text(encoding="utf-8")
    assert '"intent"' not in corpus
    assert '"urgency"' not in corpus
    assert not any(f"Customer: {message}\n" in corpus for message, _ in heldout)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(made: Path, tmp_path: Path) -> None:
    generate(tmp_path / "same", 0)
    generate(tmp_path / "other", 1)
    for name in ("corpus.txt", "train.jsonl", "heldout.jsonl"):
        assert (tmp_path / "same" / name).read_bytes() == (made / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (made / name).read_bytes()
