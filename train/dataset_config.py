"""What a recipe may say about its data set. Light: imports nothing but pydantic.

Units: rows; shares are between 0 and 1.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raymill.train.formats import Format
from raymill.train.run_config import Config

Purpose = Literal["training", "evaluation"]
Duplicates = Literal["keep", "drop_exact", "drop_near"]


class Split(Config):
    """Held-out rows taken from the training file. A row's side follows from its content and the seed alone, so
    that rows that are added later move no others."""

    test: float = Field(gt=0, lt=1)
    """Share of the rows that is held out, about."""

    seed: int = 0
    """Another seed holds other rows out."""


class Contamination(Config):
    """When training rows are too near to a registered evaluation set. The measure is that of GPT-3's paper
    (Brown et al. 2020, appendix C): n-grams of words."""

    ngram: int = Field(default=13, ge=5, le=50)
    """Words in a row that must be the same."""

    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of an evaluation row's n-grams that may lie in the training rows."""

    waive: tuple[str, ...] = ()
    """Names of evaluation sets that may overlap all the same; each waiver goes into the audit log."""


class DatasetSource(Config):
    """Files, and what becomes of their rows."""

    train: str | tuple[str, ...] | None = None
    """jsonl, json, csv or parquet in any of the formats, or txt, its documents parted by empty lines; several files are
    read one after the other."""

    test: str | None = None
    """Held-out rows of the same shape."""

    split: Split | None = None
    """Hold rows of `train` out, in place of `test`."""

    format: Format | None = None
    """messages, sharegpt, alpaca, completion, preference, kto or text; None: what the first good row is in."""

    allow_bad_rows: bool = False
    """Leave bad rows out and say so, instead of refusing the set."""

    duplicates: Duplicates = "keep"
    """What becomes of training rows that are there already: word for word, or nearly so."""

    contamination: Contamination = Field(default_factory=Contamination)
    """How near training rows may be to registered evaluation sets."""

    @model_validator(mode="after")
    def check_source(self) -> Self:
        if self.test is not None and self.split is not None:
            raise ValueError("test and split both hold rows out: remove one of them")
        if self.train is not None and not files_of(self.train):
            raise ValueError("train names no file: give at least one")
        return self


class DatasetConfig(DatasetSource):
    """The data set of a recipe: files, or the name of one that is registered."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """A registered set, in place of files."""

    version: int | None = Field(default=None, ge=1)
    """Of the registered set; None: its newest when the recipe is submitted."""

    @model_validator(mode="after")
    def check(self) -> Self:
        if (self.train is None) == (self.name is None):
            raise ValueError("needs either train, a file, or name, a registered set: give one of them")
        if self.name is None and self.version is not None:
            raise ValueError(f"version {self.version} belongs to name: remove it, or give name")
        if self.name is not None:
            given = sorted(self.model_fields_set - {"name", "version"} - self._defaults())
            if given:
                raise ValueError(
                    f"{given[0]} belongs to files, {self.name} is registered as it is: remove it"
                )
        return self

    def _defaults(self) -> set[str]:
        """Fields that were given as they are when left out, as a resolved recipe does."""
        fields = type(self).model_fields
        return {
            name
            for name in fields
            if getattr(self, name) == fields[name].get_default(call_default_factory=True)
        }

    @property
    def holds_out(self) -> bool:
        """Whether there are held-out rows, as far as can be told here."""
        return self.name is not None or self.test is not None or self.split is not None


def files_of(train: Any) -> tuple[str, ...]:
    """The paths that `train` names."""
    return (train,) if isinstance(train, str) else tuple(train or ())
