"""What a recipe may say about a search over its `train` section. Light: imports nothing but pydantic.

A search tries values of some fields of `train`; everything else stays as the recipe has it. Fields that follow from
others (`lora.alpha` from `lora.r`, the learning rate from the kind of tuning) follow the values tried.

Units: steps (one optimiser update).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import product
from typing import Any, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_serializer, model_validator

from raymill.train.config import ClusterUse, TrainConfig
from raymill.train.run_config import Config, Validate

ROOT = "train"
"""The section that can be searched. Its fields are named with it, as `train.learning_rate`."""

DEFAULT_TRIALS = 16

PLACES = frozenset(ClusterUse.model_fields) - {"precision"}
"""Fields that say where and how safely training runs; they change nothing that a metric could tell."""

ROWS = frozenset({"method", "max_tokens", "loss_on", "validation", "early_stop"})
"""Fields that say what is learnt and measured; with others of them two losses are not of the same thing."""

LIVE_FIELDS = ("learning_rate", "weight_decay", "max_grad_norm", "lora.dropout")
"""What may change in the middle of a run: neither the shape of the weights nor the order of the data hangs on it."""

Values = dict[str, Any]
"""Path, such as `train.lora.r`, to the value that a trial has there."""


class Range(Config):
    """The values of one field: exactly one of the keys."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """One of these."""

    uniform: tuple[float, float] | None = None
    """A number between two others, each equally likely."""

    loguniform: tuple[float, float] | None = None
    """A number between two others above 0, each order of magnitude equally likely."""

    integers: tuple[int, int] | None = None
    """A whole number between two others, both included."""

    logintegers: tuple[int, int] | None = None
    """The same, each order of magnitude equally likely."""

    @model_validator(mode="after")
    def check(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            keys = ", ".join(type(self).model_fields)
            raise ValueError(f"needs exactly one of {keys}, got {' and '.join(given) or 'none'}: keep one")
        if self.bounds is not None:
            low, high = self.bounds
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"goes from {low:g} to {high:g}: give two numbers, the smaller first")
            if self.is_log and low <= 0:
                raise ValueError(f"begins at {low:g}, which has no order of magnitude: begin above 0")
        return self

    @model_serializer
    def only_given(self) -> dict[str, Any]:
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    @property
    def bounds(self) -> tuple[float, float] | None:
        """None for a choice."""
        return self.uniform or self.loguniform or self.integers or self.logintegers

    @property
    def is_log(self) -> bool:
        return self.loguniform is not None or self.logintegers is not None

    @property
    def is_whole(self) -> bool:
        return self.integers is not None or self.logintegers is not None

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that show whether the field takes all: each choice, or both ends."""
        return self.choice if self.choice is not None else tuple(self.bounds or ())


class TuneConfig(Config):
    """A search for the values with which training ends best. Each trial is one training run."""

    over: dict[str, Range] = Field(min_length=1)
    """Field of `train` -> the values to try, as `train.learning_rate: {loguniform: [1e-5, 1e-2]}`."""

    search: Literal["grid", "random", "optuna"] = "random"
    """grid: every combination of choices. random: independent draws. optuna: draws that learn from the trials before
    them (TPE)."""

    scheduler: Literal["none", "asha", "median", "pbt"] = "asha"
    """Who goes on. none: all. asha: at each rung the best in `reduction`. median: those better than the median of the
    others so far. pbt: all, but the worst quarter takes over weights and values of the best (population based)."""

    trials: int = Field(default=0, ge=0, le=10_000)
    """Training runs; 0 means all combinations of a grid, else 16."""

    metric: Literal["validation_loss", "final_loss"] = "validation_loss"
    """validation_loss: on the rows that `train.validation` holds out, from all trials; if it is left out, on its default
    share. final_loss: on the rows trained on, over the steps since the last report."""

    concurrent: int = Field(default=0, ge=0, le=10_000)
    """Trials that run at once; 0 means as many as there are GPUs, or pairs of cores. Never more than there is room for."""

    seed: int = 0
    """Of the values drawn."""

    grace: int = Field(default=0, ge=0)
    """Steps before a trial may be stopped, or has to take over another's weights; 0 means `train.checkpoint_every`."""

    reduction: int = Field(default=3, ge=2, le=64)
    """asha: one in so many goes on from each rung, and the next rung is so many times as far."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.search == "grid":
            ranged = [path for path, values in self.over.items() if values.choice is None]
            if ranged:
                raise ValueError(f"grid has no way to try all of {ranged[0]}: give it a choice")
            combinations = math.prod(len(values.samples) for values in self.over.values())
            if self.trials not in (0, combinations):
                raise ValueError(
                    f"trials is {self.trials}, the grid has {combinations} combinations: leave trials out"
                )
        if self.scheduler == "pbt":
            self._check_population()
        return self

    def _check_population(self) -> None:
        if self.search != "random":
            raise ValueError(f"pbt begins with values drawn at random: search cannot be {self.search}")
        if self.concurrent:
            raise ValueError("pbt runs its whole population, by turns if need be: leave concurrent out")
        if self.size < 4:
            raise ValueError(f"trials is {self.size}, of which pbt can name no best and worst: use 4 or more")
        fixed = [path for path in self.over if path.removeprefix(f"{ROOT}.") not in LIVE_FIELDS]
        if fixed:
            known = ", ".join(f"{ROOT}.{name}" for name in LIVE_FIELDS)
            raise ValueError(f"{fixed[0]} cannot change while a model is trained: with pbt use {known}")

    @property
    def size(self) -> int:
        """How many trials there will be."""
        if self.search == "grid":
            return math.prod(len(values.samples) for values in self.over.values())
        return self.trials or DEFAULT_TRIALS


class Problem(NamedTuple):
    """What is wrong with a search, and at which key of the recipe."""

    param: str
    text: str


def grid(config: TuneConfig) -> Iterator[Values]:
    """Every combination; the last field changes fastest."""
    for chosen in product(*(values.samples for values in config.over.values())):
        yield dict(zip(config.over, chosen, strict=True))


def find_problem(config: TuneConfig, train: TrainConfig) -> Problem | None:
    """The first field that cannot be searched, or value that it cannot have; for a grid also the first combination."""
    for path, values in config.over.items():
        param = f"tune.over.{path}"
        if (text := _misplaced(path, train, config)) is not None:
            return Problem(param, text)
        for value in values.samples:
            if (text := refusal(train, {path: value})) is not None:
                return Problem(param, text)
    for chosen in grid(config) if config.search == "grid" else ():
        if (text := refusal(train, chosen)) is not None:
            told = ", ".join(f"{path} {value}" for path, value in chosen.items())
            return Problem("tune.over", f"{told} do not go together: {text}")
    if train.workers > 1 or train.zero > 0 or train.sharding != "zero":
        return Problem(
            "train.workers",
            f"is {train.workers}, zero {train.zero}, sharding {train.sharding}: a trial trains on one worker, so leave "
            "all of them out",
        )
    if train.early_stop is not None:
        return Problem("train.early_stop", "would end trials that tune.scheduler lets go on: leave it out")
    return None


def measured(train: TrainConfig, config: TuneConfig) -> TrainConfig:
    """`train` as trials are given it: with rows held out, if they are measured by them."""
    if config.metric != "validation_loss" or train.validation is not None:
        return train
    return train.model_copy(update={"validation": Validate(every=train.checkpoint_every)})


def _misplaced(path: str, train: TrainConfig, config: TuneConfig) -> str | None:
    root, *parts = path.split(".")
    if root != ROOT or not parts:
        return f"can search {ROOT} alone: name a field of it, such as {ROOT}.learning_rate"
    if parts[0] in PLACES:
        return "says where training runs, not what comes of it: leave it out"
    if parts[0] in ROWS:
        return "says what is learnt or measured, so the losses of trials could not be compared: leave it out"
    around = [other for other in config.over if path.startswith(f"{other}.")]
    if around:
        return f"lies within {around[0]}, which is searched too: keep one of them"
    return _unknown(parts, train)


def _unknown(parts: list[str], train: TrainConfig) -> str | None:
    """Why there is no field at `parts`; None when there is one."""
    section: type[BaseModel] | None = TrainConfig
    here: Any = train
    for number, part in enumerate(parts):
        before = ".".join([ROOT, *parts[:number]])
        if section is None:
            return f"{before} has no fields of its own: search it as a whole"
        if here is None:
            return f"the recipe has no {before}: add it"
        if part not in section.model_fields:
            known = list(section.model_fields)
            close = get_close_matches(part, known, n=1)
            cure = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(known)}"
            return f"{before} has no field {part!r}: {cure}"
        section = next(_models(section.model_fields[part].annotation), None)
        here = getattr(here, part)
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def refusal(train: TrainConfig, values: Mapping[str, Any]) -> str | None:
    """Why `train` cannot have these values; None when it can."""
    try:
        with_values(train, values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in (ROOT, *first["loc"]))
        said = str(first.get("ctx", {}).get("error", first["msg"]))
        return f"{where} cannot be {first['input']!r}: {said}" if first["loc"] else said
    return None


def with_values(train: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """`train` with these values; what follows from them follows anew.

    Raises:
        ValidationError: it cannot have them.
    """
    data = _said(train)
    for path, value in values.items():
        *outer, last = path.split(".")[1:]
        here = data
        for part in outer:
            here = here.setdefault(part, {})
        here[last] = copy.deepcopy(value)
    return TrainConfig.model_validate(data)


def _said(train: TrainConfig) -> dict[str, Any]:
    """The fewest keys that make `train`: those that have a default, or follow from others, are left out."""
    data = train.model_dump(mode="json")
    for path in list(_leaves(data)):
        fewer = copy.deepcopy(data)
        here = fewer
        for part in path[:-1]:
            here = here[part]
        del here[path[-1]]
        try:
            same = TrainConfig.model_validate(fewer) == train
        except ValidationError:
            same = False
        data = fewer if same else data
    return data


def _leaves(data: Mapping[str, Any], within: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*within, key))
        else:
            yield (*within, key)
