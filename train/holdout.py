"""Which training rows are held out to validate on: by their own hash, so a row's part never depends on the others.

The test part of a data set is never touched: it is for the evaluation that decides about promotion.
"""

from __future__ import annotations

from collections.abc import Sequence

from raymill.policies.errors import Invalid
from raymill.train.run_config import Validate
from raymill.train.split import PLACES, place_of


def held_out(rows: Sequence[str], config: Validate) -> set[int]:
    """Numbers (from 0) of the rows, given as lines of a file in normal form, that training must not see.

    Raises:
        Invalid: nothing would be held out, or nothing left to train on.
    """
    places = [place_of(row.strip().encode()) for row in rows]
    if config.rows is not None:
        # The first places; rows that are the same stay together.
        limit = sorted(places)[min(config.rows, len(places)) - 1]
        chosen = {number for number, place in enumerate(places) if place <= limit}
    else:
        chosen = {number for number, place in enumerate(places) if place < config.share * PLACES}
    if not chosen:
        raise Invalid(
            f"validation.share {config.share:g} of {len(rows)} rows holds none out: raise it, or give validation.rows",
            param="train.validation.share",
        )
    if len(chosen) == len(rows):
        raise Invalid(
            f"validation would take all {len(rows)} rows: lower validation.share or validation.rows",
            param="train.validation",
        )
    return chosen
