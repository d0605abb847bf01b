"""Rows, positions and masks by hand; and the shares of workers add up to the step."""

from itertools import chain

import numpy as np
import pytest
import torch

from raymill.train.batches import (
    ExampleShares,
    WindowShares,
    counted_in,
    first_fit,
    lay,
    positions_within,
    window_starts,
)
from raymill.train.summed_loss import inputs_of
from raymill.train.template import IGNORE, Example


def example(*ids: int, asked: int = 1) -> Example:
    """An example whose first `asked` tokens are the question."""
    return Example(list(ids), [IGNORE] * asked + list(ids[asked:]))


def test_short_examples_share_a_row_with_their_own_positions() -> None:
    batch = lay([[0, 1]], [example(5, 6, 7), example(8, 9)], width=7, pad_id=0)
    assert batch.ids_BT.tolist() == [[5, 6, 7, 8, 9, 0, 0]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch.labels_BT.tolist() == [[IGNORE, 6, 7, IGNORE, 9, IGNORE, IGNORE]]
    assert batch.owners_BT.tolist() == [[0, 0, 0, 1, 1, 0, 0]]
    assert batch.examples_E.tolist() == [0, 1]


def test_no_example_is_asked_to_follow_from_the_one_before_it() -> None:
    batch = lay([[0, 1]], [example(1, 2), example(3, 4, asked=0)], width=4, pad_id=0)
    assert batch.labels_BT.tolist() == [[IGNORE, 2, IGNORE, 4]]


def test_first_fit_fills_the_first_row_with_room() -> None:
    assert first_fit([0, 1, 2], {0: 5, 1: 4, 2: 3}, width=8) == [[0, 2], [1]]


def shares(*, packing: bool = True, batch: int = 4, pass_tokens: int = 1024) -> ExampleShares:
    examples = [example(*range(10 * n, 10 * n + 2 + n % 5)) for n in range(1, 11)]
    return ExampleShares(
        examples, batch=batch, epochs=2, seed=7, pad_id=0, packing=packing, pass_tokens=pass_tokens
    )


def counted_ids(made: ExampleShares, step: int, workers: int) -> list[int]:
    parts = [made.share(step, rank, workers) for rank in range(workers)]
    labels = [batch.labels_BT.ravel() for part in parts for batch in part.passes]
    return sorted(label for array in labels for label in array.tolist() if label != IGNORE)


@pytest.mark.parametrize("packing", [True, False])
def test_workers_and_packing_change_who_sees_a_token_never_which(packing: bool) -> None:
    for step in range(shares().steps):
        one = counted_ids(shares(), step, 1)
        assert counted_ids(shares(packing=packing), step, 2) == one
        assert counted_ids(shares(packing=packing, pass_tokens=8), step, 4) == one
        assert shares().share(step, 0, 2).counted == len(one)


def test_an_epoch_sees_each_example_once_and_the_next_in_another_order() -> None:
    made = shares()
    assert made.steps == 6  # 10 examples in steps of 4: three steps, twice
    first = [counted_ids(made, step, 1) for step in range(3)]
    second = [counted_ids(made, step, 1) for step in range(3, 6)]
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert first != second


def test_every_worker_makes_as_many_passes_even_without_an_example() -> None:
    made = shares(batch=3, pass_tokens=1)
    for step in range(made.steps):
        passes = [len(made.share(step, rank, 4).passes) for rank in range(4)]
        assert len(set(passes)) == 1


def test_windows_of_a_step_are_dealt_to_the_workers() -> None:
    stream = np.arange(100, dtype=np.int32)
    made = WindowShares(stream, end_id=-1, batch=4, steps=3, seed=1, window=8)
    whole = made.share(2, 0, 1)
    parts = [made.share(2, rank, 2) for rank in range(2)]
    dealt = [row for part in parts for row in part.passes[0].ids_BT.tolist()]
    assert sorted(dealt) == sorted(whole.passes[0].ids_BT.tolist())
    assert whole.counted == parts[0].counted == 4 * 7
    assert sum(counted_in(part.passes[0]) for part in parts) == counted_in(whole.passes[0]) == 4 * 7
    assert whole.passes[0].positions_BT[0].tolist() == list(range(8))
    assert whole.passes[0].ids_BT.dtype == np.int64


def test_the_loss_of_windows_is_that_of_each_by_itself() -> None:
    stream = np.array([5, 6, 9, 5, 6, 7, 8, 5, 6, 9, 5, 9], dtype=np.int32)
    made = WindowShares(stream, end_id=9, batch=3, steps=1, seed=0, window=4).share(0, 0, 1).passes[0]
    given = inputs_of(made, torch.device("cpu"))
    assert given.at_N.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert given.targets_N.tolist() == made.ids_BT[:, 1:].reshape(-1).tolist()


def test_windows_begin_where_documents_do_and_reach_through_long_ones() -> None:
    stream = np.array([5, 6, 9, 5, 6, 7, 8, 5, 6, 9, 5, 9], dtype=np.int32)  # documents end with 9
    assert window_starts(stream, end_id=9, window=4).tolist() == [0, 3, 7, 8]


def test_documents_in_a_window_have_positions_of_their_own() -> None:
    ids_BT = np.array([[5, 6, 9, 5, 9, 7], [9, 9, 5, 6, 7, 8]])
    assert positions_within(ids_BT, end_id=9).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]
