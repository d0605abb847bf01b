from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import ray

from raymill.evaluate.actors import ActorLost, ActorPool, Size
from raymill.policies.errors import Invalid

pytestmark = pytest.mark.usefixtures("ray_session")

# The workers cannot import a test module: send its classes whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Doubler:
    """Doubles numbers; dies at the numbers named, as often as files say it may."""

    def __init__(self, deaths: str = "", meeting: str = "") -> None:
        self.deaths = Path(deaths) if deaths else None
        self.meeting = Path(meeting) if meeting else None
        self.loaded = 0

    def load(self) -> None:
        self.loaded += 1

    def double(self, number: int) -> tuple[int, int, int]:
        if self.deaths is not None and (self.deaths / str(number)).exists():
            (self.deaths / str(number)).unlink()
            os._exit(1)
        if self.meeting is not None:
            self.meet(self.meeting)
        time.sleep(0.05)
        return 2 * number, self.loaded, os.getpid()

    def meet(self, folder: Path) -> None:
        """Waits until another actor has a call as well: one may have loaded long before the other."""
        (folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < 2:
            assert time.monotonic() < deadline, "no other actor was given a call"
            time.sleep(0.02)

    def refuse(self, number: int) -> None:
        raise Invalid(f"{number} is odd: give an even one", param="number")

    def always_die(self) -> None:
        os._exit(1)


class NeverLoads:
    def load(self) -> None:
        raise Invalid("no such model: name another")


SIZE = Size(actors=2, cpus=0.5)


def test_calls_are_shared_by_actors_that_load_once(tmp_path: Path) -> None:
    results: dict[int, tuple[int, int, int]] = {}
    with ActorPool(Doubler, {"meeting": str(tmp_path)}, SIZE) as pool:
        pool.map("double", [(number,) for number in range(20)], results.__setitem__)
        pool.map("double", [(100,)], lambda _, result: results.__setitem__(100, result))
    assert [results[number][0] for number in range(20)] == [2 * number for number in range(20)]
    assert {loaded for _, loaded, _ in results.values()} == {1}
    assert len({process for *_, process in results.values()}) == 2


def test_the_share_of_a_lost_actor_is_done_again_once(tmp_path: Path) -> None:
    for number in (3, 7):
        (tmp_path / str(number)).touch()
    arrived: list[tuple[int, int]] = []
    said: list[str] = []
    with ActorPool(Doubler, {"deaths": str(tmp_path)}, SIZE, log=said.append) as pool:
        pool.map("double", [(n,) for n in range(10)], lambda at, result: arrived.append((at, result[0])))
    assert sorted(arrived) == [(number, 2 * number) for number in range(10)]
    assert said == ["Doubler was lost; its share is done again"] * 2


def test_a_call_that_always_kills_its_actor_is_given_up() -> None:
    with (
        ActorPool(Doubler, {}, Size(actors=1, cpus=0.5)) as pool,
        pytest.raises(ActorLost, match=r"Doubler\.always_die killed its process 3 times: lower batch"),
    ):
        pool.map("always_die", [()], lambda *_: None)


def test_our_own_error_arrives_as_it_was_raised() -> None:
    with (
        ActorPool(Doubler, {}, SIZE) as pool,
        pytest.raises(Invalid, match=r"^7 is odd: give an even one$") as error,
    ):
        pool.map("refuse", [(7,)], lambda *_: None)
    assert error.value.param == "number"


def test_an_error_while_loading_arrives_as_it_was_raised() -> None:
    with (
        ActorPool(NeverLoads, {}, SIZE) as pool,
        pytest.raises(Invalid, match=r"^no such model: name another$"),
    ):
        pool.map("anything", [()], lambda *_: None)


def test_more_actors_than_processors_do_the_work_with_those_that_start() -> None:
    results: dict[int, tuple[int, int, int]] = {}
    with ActorPool(Doubler, {}, Size(actors=5, cpus=1)) as pool:
        pool.map("double", [(number,) for number in range(8)], results.__setitem__)
    assert len(results) == 8


def test_a_cancelled_job_stops_at_the_next_look() -> None:
    class Cancelled(Exception):
        pass

    def check() -> None:
        raise Cancelled

    with ActorPool(Doubler, {}, SIZE, check=check) as pool, pytest.raises(Cancelled):
        pool.map("double", [(1,)], lambda *_: None)
