"""Samples of two evaluations: read as registered, paired by example, and nothing dropped in silence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.registry.making import HELDOUT, World, parquet, sample

from raymill.policies.errors import Invalid, NotFound
from raymill.registry.artifacts import ArtifactStore, FileDigest, Tampered, digest_files
from raymill.registry.changed_samples import ChangedSample, Side, changed_page
from raymill.registry.samples import SampleFile, Samples, file_of, pair, read
from raymill.registry.tables import Evaluation, JsonObject


def publish(
    home: Path, rows: list[JsonObject], *, label: str = "a@1", task: str = "task", variant: str = ""
) -> SampleFile:
    """A file of samples in a store under `home`."""
    name = f"evaluation/a/{len(list(home.rglob('*.parquet'))):012x}"
    folder = home / name
    folder.mkdir(parents=True)
    (folder / "task.parquet").write_bytes(parquet(rows))
    (file,) = digest_files(folder)
    return SampleFile(label=label, task=task, artifact_name=name, file=file, variant=variant)


def read_rows(home: Path, rows: list[JsonObject], label: str = "a@1", variant: str = "") -> Samples:
    return read(ArtifactStore(home), publish(home, rows, label=label, variant=variant))


def test_examples_are_paired_by_what_was_asked_not_by_their_place(tmp_path: Path) -> None:
    a = read_rows(tmp_path, [sample(n, float(n % 2)) for n in range(6)])
    b = read_rows(tmp_path, [sample(n, float(n < 4)) for n in (7, 5, 4, 3, 2)])
    found = pair(a, b)
    assert (found.statistics.examples, found.only_a, found.only_b) == (4, 2, 1)
    assert (found.statistics.wins, found.statistics.losses) == (1, 1)  # 5 and 2
    assert found.asked_differently == 0


def test_equal_examples_are_paired_in_their_order(tmp_path: Path) -> None:
    a = read_rows(tmp_path, [sample(1, 1.0), sample(1, 0.0), sample(1, 1.0)])
    b = read_rows(tmp_path, [sample(1, 1.0), sample(1, 1.0)])
    found = pair(a, b)
    assert (found.statistics.examples, found.statistics.losses, found.only_a) == (2, 1, 1)


def test_another_template_does_not_part_examples_and_is_told(tmp_path: Path) -> None:
    a = read_rows(tmp_path, [sample(n, 1.0) for n in range(3)])
    b = read_rows(tmp_path, [sample(n, 1.0, prompt=f"<s>p{n}" if n else "p0") for n in range(3)])
    assert (pair(a, b).statistics.examples, pair(a, b).asked_differently) == (3, 2)


def test_samples_without_hashes_are_paired_by_prompt_and_reference(tmp_path: Path) -> None:
    old = [{"prompt": f"p{n}", "reference": "r" if n else "other", "score": 1.0} for n in range(3)]
    a, b = read_rows(tmp_path, old), read_rows(tmp_path, [sample(n, 1.0) for n in range(3)])
    assert (pair(a, b).statistics.examples, pair(a, b).only_a, pair(a, b).only_b) == (2, 1, 1)


def test_what_has_nothing_in_common_is_refused(tmp_path: Path) -> None:
    a = read_rows(tmp_path, [sample(n, 1.0) for n in range(3)])
    b = read_rows(tmp_path, [sample(9, 1.0)], label="b@2")
    with pytest.raises(Invalid, match="none of the 3 examples of a@1 is among the 1 of b@2: evaluate both"):
        pair(a, b)
    other = read_rows(tmp_path, [sample(n, 1.0, metric="f1") for n in range(3)], label="b@3")
    with pytest.raises(Invalid, match="a@1 was scored by None and b@3 by f1"):
        pair(a, other)


def test_a_quantized_file_has_its_own_samples(tmp_path: Path) -> None:
    rows = [
        {"variant": kind, **sample(n, score)} for kind, score in (("F16", 1.0), ("Q8_0", 0.0)) for n in (1, 2)
    ]
    assert read_rows(tmp_path, rows, variant="Q8_0").scores.tolist() == [0.0, 0.0]


def test_several_answers_to_one_example_count_as_one(tmp_path: Path) -> None:
    rows = [sample(n, float(n == answer), index=n) for n in range(3) for answer in range(2)]
    a, b = read_rows(tmp_path, rows), read_rows(tmp_path, [sample(n, 1.0, index=n) for n in range(3)])
    assert a.scores.tolist() == [0.5, 0.5, 0.0]
    assert (pair(a, b).statistics.examples, pair(a, b).statistics.test) == (3, "paired bootstrap")


def changed(a: SampleFile, b: SampleFile, home: Path, better: Side = "either") -> list[ChangedSample]:
    return changed_page(ArtifactStore(home), (a, b), better, 100, None).data


def test_changed_examples_are_those_that_the_comparison_counts(tmp_path: Path) -> None:
    a = publish(tmp_path, [sample(n, float(n % 2), index=n, answer=f"{n % 2}") for n in range(6)])
    b = publish(tmp_path, [sample(n, float(n < 4), index=n, answer="x") for n in (7, 5, 4, 3, 2)])
    assert [(each.index, each.gain) for each in changed(a, b, tmp_path)] == [(2, -1), (5, 1)]
    assert [each.index for each in changed(a, b, tmp_path, "a")] == [5]
    assert [each.index for each in changed(a, b, tmp_path, "neither")] == [3, 4]
    other = publish(tmp_path, [sample(n, 1.0, prompt=f"<s>p{n}", index=n) for n in range(2)])
    (found,) = changed(a, other, tmp_path)
    assert (found.a.prompt, found.b.prompt, found.b.text) == ("p0", "<s>p0", None)


def test_what_is_better_when_lower_is_so_in_changed_examples(tmp_path: Path) -> None:
    worse, better = (publish(tmp_path, [sample(1, score, higher_is_better=False)]) for score in (2.0, 1.0))
    assert [each.gain for each in changed(worse, better, tmp_path, "b")] == [-1]


def test_several_answers_are_shown_by_the_first_and_their_number(tmp_path: Path) -> None:
    tried = [sample(1, float(n), index=1, answer=f"try {n}", reason="" if n else "timeout") for n in range(2)]
    a, b = publish(tmp_path, tried), publish(tmp_path, [sample(1, 1.0, index=1, answer="once")])
    (found,) = changed(a, b, tmp_path)
    assert (found.a.score, found.a.text, found.a.answers, found.a.reason) == (0.5, "try 0", 2, "timeout")
    assert (found.b.text, found.b.answers, found.b.reason) == ("once", 1, None)


def test_examples_without_a_score_are_left_to_the_counts_of_what_is_not_in_both(tmp_path: Path) -> None:
    a = read_rows(tmp_path, [sample(1, 1.0), sample(2, None)])
    b = read_rows(tmp_path, [sample(1, 1.0), sample(2, 0.0)])
    assert (pair(a, b).statistics.examples, pair(a, b).only_b) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([sample(1, None)], "gives no score for a single example"),
        ([sample(1, math.nan)], "is not finite"),
        (
            [{"prompt": "p", "reference": "r", "metrics": "{}"}],
            "older than scores by example: evaluate it again",
        ),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(
    tmp_path: Path, rows: list[JsonObject], reason: str
) -> None:
    with pytest.raises(Invalid, match=reason):
        read_rows(tmp_path, rows)


def test_changed_or_missing_bytes_are_named(tmp_path: Path) -> None:
    where, store = publish(tmp_path, [sample(1, 0.0)]), ArtifactStore(tmp_path)
    path = tmp_path / where.artifact_name / "task.parquet"
    path.write_bytes(parquet([sample(1, 1.0)]))
    with pytest.raises(Tampered, match=r"task\.parquet in artifact evaluation/a/0{12} is not what"):
        read(store, where)
    path.unlink()
    with pytest.raises(Tampered):
        read(store, where)
    path.parent.rmdir()
    with pytest.raises(NotFound, match="run the step that makes it again"):
        read(store, where)


def test_the_file_of_an_evaluation_is_found_by_its_job(world: World) -> None:
    world.make_version(right=[True, False])
    with world.database.transaction() as session:
        rows = session.query(Evaluation).order_by(Evaluation.id).all()
        kept = file_of(session, rows[1], "support-triage@1")
        assert isinstance(kept.file, FileDigest)
        assert read(world.store, kept).scores.tolist() == [1.0, 0.0]
        with pytest.raises(
            NotFound, match=f"the evaluation of base kept no samples of {HELDOUT}: evaluate it"
        ):
            file_of(session, rows[0], "base")
