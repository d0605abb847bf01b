from __future__ import annotations

from raymill.evaluate.lookahead import LONGEST, LONGEST_REST, Lookahead


def test_what_followed_before_is_drafted_and_a_loop_goes_on() -> None:
    assert Lookahead([5, 6, 7, 8, 9, 1, 5, 6, 7]).draft(2) == [8, 9]
    assert Lookahead([5, 6, 7, 8]).draft(9) == []
    loop = Lookahead([1, 2, 3, 1, 2, 3])
    loop.learn(2, 2)
    loop.learn(4, 4)
    assert loop.draft(9) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert loop.draft(1) == [1]
    assert loop.draft(0) == []


def test_the_newest_place_counts() -> None:
    ahead = Lookahead([1, 2, 3, 4, 1, 2, 3, 5])
    ahead.add([1, 2, 3])
    assert ahead.draft(1) == [5]


def test_drafts_are_as_long_as_they_were_right() -> None:
    ahead = Lookahead([1] * 100)
    lengths = []
    for _ in range(5):
        draft = ahead.draft(99)
        lengths.append(len(draft))
        ahead.learn(len(draft), len(draft))
    assert lengths == [2, 4, 8, LONGEST, LONGEST]
    ahead.learn(LONGEST, 3)
    assert len(ahead.draft(99)) == 3


def test_wrong_drafts_become_rare() -> None:
    ahead = Lookahead([1] * 100)
    drafted = []
    for _ in range(300):
        draft = ahead.draft(99)
        drafted.append(bool(draft))
        ahead.learn(len(draft), 0)
    assert sum(drafted) < 300 / LONGEST_REST + 8
    assert any(drafted[-LONGEST_REST - 1 :])
