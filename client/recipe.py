"""The recipe: what to make, as data. Composed of the light configurations of the other rooms.

`load_recipe` reads a YAML file; the service reads what the client posts with `parse_recipe`. Both say
what is wrong in one line that begins with the key. Imports nothing heavy and sends nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from raymill.client.types import JsonObject
from raymill.client.validation import MISFIT, checked
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.compress_config import COMPRESSED_TYPES, CompressConfig
from raymill.evaluate.config import (
    KINDS,
    EvaluateConfig,
    LmEvalTask,
    PerplexityTask,
    Task,
    file_of,
    label_of,
)
from raymill.evaluate.quantize_config import QuantizeConfig
from raymill.policies.errors import Invalid
from raymill.registry.canary_config import CanaryConfig
from raymill.serve.llm.config import HIGHEST_RANK, LoraServing, ServeConfig, max_rank_for
from raymill.train.config import ImportConfig, PretrainConfig, TrainConfig
from raymill.train.dataset_config import DatasetConfig, files_of
from raymill.tune.config import TuneConfig, find_problem

NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class Section(BaseModel):
    """Frozen, and a key that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Base(Section):
    """Where training starts: exactly one of `pretrain`, `path` and `hub`."""

    pretrain: PretrainConfig | None = None
    """Make one from a text file; needs no download."""

    path: str | None = None
    """Directory in Hugging Face layout, with safetensors."""

    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository on the Hugging Face hub, such as org/name."""

    revision: str | None = None
    """Branch, tag or commit on the hub; pin a commit, for a branch moves."""

    @model_validator(mode="after")
    def one_source(self) -> Self:
        given = [name for name in ("pretrain", "path", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"needs exactly one of pretrain, path and hub, got {found}")
        if self.revision is not None and self.hub is None:
            raise ValueError(f"revision {self.revision!r} belongs to hub: remove it, or give hub")
        return self

    @property
    def imported(self) -> ImportConfig | None:
        """None when the base is pre-trained."""
        if self.pretrain is not None:
            return None
        return ImportConfig(path=self.path, hub=self.hub, revision=self.revision)


class Gate(Section):
    """What a score must be for the promotion to be allowed."""

    at_least: float | None = None
    """The score may not be below this."""

    at_most: float | None = None
    """The score may not be above this; for losses and error rates."""

    not_below_base: bool = False
    """The score may not be below the base model's."""

    not_significantly_worse_than: str | None = Field(default=None, pattern=NAME)
    """An alias, such as production: by example, the score may not be significantly worse than that of the version that
    it names. Where it names none yet, nothing is asked."""

    @model_validator(mode="after")
    def asks_something(self) -> Self:
        if not self.model_dump(exclude_defaults=True):
            raise ValueError(
                "asks for nothing: give at_least, at_most, not_below_base: true or not_significantly_worse_than"
            )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is above at_most {self.at_most:g}: swap them")
        return self


class PromoteConfig(Section):
    """Which alias to move, and what the policy is told to ask for."""

    to: str = Field(default="production", pattern=NAME)
    """Alias that serving follows."""

    require: dict[str, Gate] = Field(default_factory=dict)
    """Task -> gate. Every task must be one that `evaluate` measures."""

    canary: CanaryConfig | None = None
    """What the version is tried by before the alias moves, where something answers for that. None: as the environment
    says."""


class Recipe(Section):
    """From a base model and a data set to a served model. Every path in it is absolute."""

    model: str = Field(pattern=NAME)
    """Name in the registry and in the gateway."""

    base: Base
    dataset: DatasetConfig
    train: TrainConfig = Field(default_factory=TrainConfig)
    tune: TuneConfig | None = None
    """A search over fields of `train`, in place of one training run; None: there is none."""

    evaluate: EvaluateConfig | None = None
    """None: nothing is measured."""

    quantize: QuantizeConfig | None = None
    """None: no GGUF file is made."""

    compress: CompressConfig | None = None
    """None: no weights in fewer bits are made for vLLM."""

    promote: PromoteConfig | None = None
    """None: no alias moves."""

    serve: ServeConfig | None = None
    """None: nothing is deployed."""

    @model_validator(mode="after")
    def sections_fit(self) -> Self:
        if self.tune is not None and (problem := find_problem(self.tune, self.train)) is not None:
            raise misfit(problem.param, problem.text)
        if self.tune is not None and self.train.resources is not None:
            raise misfit("train.resources", "a search places its trials itself: leave resources out")
        if self.serve is not None and self.promote is None:
            raise misfit(
                "serve", "needs promote: what is served is what an alias names, and promote moves it"
            )
        made: tuple[str, ...] = self.quantize.types if self.quantize else ()
        compressed: tuple[str, ...] = self.compress.types if self.compress else ()
        wanted = self.serve.quantization if self.serve else None
        if wanted is not None and wanted not in (*made, *compressed):
            section = "compress" if wanted in COMPRESSED_TYPES else "quantize"
            raise misfit("serve.quantization", f"{wanted} is not made: add it to {section}")
        if self.serve is not None and self.serve.lora is not None:
            self._adapter_can_be_served(self.serve.lora)
        sections = {"evaluate": self.evaluate, "quantize": self.quantize, "compress": self.compress}
        if any(sections.values()) and not self.dataset.holds_out:
            section = next(name for name, given in sections.items() if given)
            raise misfit(section, "needs held-out rows: give dataset.test, or dataset.split: {test: 0.1}")
        if self.promote is not None:
            self._gates_are_measured(self.promote)
        return self

    def _adapter_can_be_served(self, served: LoraServing) -> None:
        trained = self.train.lora
        if trained is None:
            raise misfit(
                "serve.lora", "serves an adapter, and train makes none: add train.lora, or leave it out"
            )
        if trained.dora:
            raise misfit("serve.lora", "vllm serves no DoRA adapter: leave it out, or train.lora.dora")
        if trained.r > served.max_rank:
            fits = max_rank_for(trained.r)
            cure = f"set it to {fits}" if fits else f"vllm serves ranks up to {HIGHEST_RANK}"
            raise misfit(
                "serve.lora.max_rank", f"is {served.max_rank}, and train.lora.r is {trained.r}: {cure}"
            )

    def _gates_are_measured(self, promote: PromoteConfig) -> None:
        tasks = self.evaluate.tasks if self.evaluate else ()
        for task in tasks:
            gate = promote.require.get(label_of(task))
            if isinstance(task, PerplexityTask) and gate is not None and gate.not_below_base:
                raise misfit(
                    f"promote.require.{task.name}.not_below_base",
                    "of a perplexity less is better: use at_most, or not_significantly_worse_than",
                )
        if any(isinstance(task, LmEvalTask) and task.is_file for task in tasks):
            return  # the name of such a task stands in its file, which the service reads
        names = [label_of(task) for task in tasks]
        measured = f"evaluate measures {', '.join(names)}" if names else "there is no evaluate section"
        for name in promote.require:
            if name not in names:
                raise misfit(
                    f"promote.require.{name}", f"is not measured, {measured}: add it to evaluate.tasks"
                )

    def resolved(self) -> JsonObject:
        """Every key with its value, as JSON: what is posted, and kept with the run."""
        return self.model_dump(mode="json")

    def training_only(self) -> Recipe:
        """Base, data set and training; the addresses of these steps stay the same."""
        return Recipe(model=self.model, base=self.base, dataset=self.dataset, train=self.train)


def misfit(param: str, text: str) -> PydanticCustomError:
    """Two sections that do not fit together: an error of the whole that names one key."""
    return PydanticCustomError(MISFIT, "{text}", {"param": param, "text": text})


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Relative paths in it start at its own folder.

    Raises:
        Invalid: the file cannot be read, is no YAML, has a wrong key or value, or names a file that is
            not there. `param` says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Invalid(f"recipe {path} does not exist: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Invalid(f"recipe {path} cannot be read ({reason}): give a YAML file") from None
    try:
        data = yaml.load(text, Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "unknown place"
        raise Invalid(f"{path}: {where}: {error.problem or error.context}: correct the YAML") from None
    except yaml.YAMLError as error:
        raise Invalid(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    return parse_recipe(data, folder=path.absolute().parent)


def parse_recipe(data: object, *, folder: Path | None = None) -> Recipe:
    """Check a recipe that is already data.

    Args:
        folder: where relative paths start; None refuses them, as the service does.

    Raises:
        Invalid: as for `load_recipe`.
    """
    if not isinstance(data, dict):
        raise Invalid(f"a recipe is a mapping with model, base and dataset, got {_kind(data)}")
    if folder is not None:
        data = _anchored(data, folder)
    recipe = checked(Recipe, data)
    for param, value, is_directory in _paths(recipe):
        _check_path(param, Path(value), is_directory)
    return recipe


def _paths(recipe: Recipe) -> list[tuple[str, str, bool]]:
    """(key, path, whether it is a directory) for every file that the recipe names."""
    found = [("dataset.train", path, False) for path in files_of(recipe.dataset.train)]
    if recipe.dataset.test is not None:
        found.append(("dataset.test", recipe.dataset.test, False))
    if recipe.base.pretrain is not None:
        found.append(("base.pretrain.text", recipe.base.pretrain.text, False))
    if recipe.base.path is not None:
        found.append(("base.path", recipe.base.path, True))
    if recipe.evaluate is not None:
        found += [(f"evaluate.{param}", path, False) for param, path in task_files(recipe.evaluate.tasks)]
    for name, given in (("quantize", recipe.quantize), ("compress", recipe.compress)):
        for key in ("importance", "calibration", "verify"):
            section = getattr(given, key, None)
            if section is not None and section.file is not None:
                found.append((f"{name}.{key}.file", section.file, False))
    return found


def task_files(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """(key, path) for every file that tasks name."""
    found: list[tuple[str, str]] = []
    for number, task in enumerate(tasks):
        if isinstance(task, LmEvalTask) and task.is_file:
            found.append((f"tasks[{number}]", task.lm_eval))
        elif (named := file_of(task)) is not None:
            found.append((f"tasks[{number}].{named[0]}", named[1]))
        elif isinstance(task, BenchmarkTask):
            files = {"file": task.file, "fewshot_file": task.fewshot_file}
            found += [(f"tasks[{number}].{key}", path) for key, path in files.items() if path]
    return found


def check_task_files(tasks: Sequence[Task]) -> None:
    """Raises Invalid: a file that a task names is not there, or its path is not absolute."""
    for param, path in task_files(tasks):
        _check_path(param, Path(path), False)


def _check_path(param: str, path: Path, is_directory: bool) -> None:
    what = "directory" if is_directory else "file"
    if not path.is_absolute():
        raise Invalid(f"{param}: must be an absolute path, got {path}", param=param)
    if not path.exists():
        raise Invalid(f"{param}: no such {what}: {path}", param=param)
    if path.is_dir() != is_directory:
        raise Invalid(f"{param}: must be a {what}, {path} is not one", param=param)


def _anchored(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A copy in which the paths are absolute. What has the wrong shape stays, for the check to name."""
    copy = dict(data)
    for section, keys in (("dataset", ("train", "test")), ("base", ("path",))):
        copy[section] = _with_paths(data.get(section), keys, folder)
    if isinstance(base := copy["base"], dict) and "pretrain" in base:
        copy["base"] = {**base, "pretrain": _with_paths(base["pretrain"], ("text",), folder)}
    if isinstance(evaluate := data.get("evaluate"), dict) and isinstance(evaluate.get("tasks"), list):
        copy["evaluate"] = {**evaluate, "tasks": [task_at(task, folder) for task in evaluate["tasks"]]}
    for section in ("quantize", "compress"):
        if isinstance(given := data.get(section), dict):
            files = {
                key: _with_paths(given[key], ("file",), folder)
                for key in ("importance", "calibration", "verify")
                if key in given
            }
            copy[section] = {**given, **files}
    return {key: value for key, value in copy.items() if key in data}


def _with_paths(section: Any, keys: tuple[str, ...], folder: Path) -> Any:
    if not isinstance(section, dict):
        return section
    return {key: _anchor(value, folder) if key in keys else value for key, value in section.items()}


def _anchor(value: Any, folder: Path) -> Any:
    """A path, or each of several."""
    if isinstance(value, list | tuple):
        return [_anchor(each, folder) for each in value]
    return str(folder / Path(value).expanduser()) if isinstance(value, str) else value


def task_at(task: Any, folder: Path) -> Any:
    """A task with the path of its file absolute; a task that is a bare name stays."""
    if isinstance(task, dict) and KINDS.keys() & task.keys():
        return _with_paths(task, tuple(KINDS), folder)
    if isinstance(task, dict) and "benchmark" in task:
        return _with_paths(task, ("file", "fewshot_file"), folder)
    name = task.get("lm_eval") if isinstance(task, dict) else task
    if not isinstance(name, str) or Path(name).suffix not in {".yaml", ".yml"}:
        return task
    path = str(folder / Path(name).expanduser())
    return {**task, "lm_eval": path} if isinstance(task, dict) else path


def _kind(data: object) -> str:
    return "an empty file" if data is None else f"a {type(data).__name__}"


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently keep the last, and keys that are no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, str):
                problem = f"key {key!r} is not text"
            elif key in seen:
                problem = f"key {key!r} stands here twice"
            if problem is not None:
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
