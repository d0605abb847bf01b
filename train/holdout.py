"""Which training rows are held out to validate on: by their own hash, so a row's part never depends on the others.

The test part of a data set is never touched: it is for the evaluation that decides about promotion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from raymill.policies.errors import Invalid
from raymill.train.run_config import Validate


def held_out(rows: Sequence[str], config: Validate) -> set[int]:
    """Numbers (from 0) of the rows, given as lines of a file in normal form, that training must not see.

    Raises:
        Invalid: nothing would be held out, or nothing left to train on.
    """
    digests = [int.from_bytes(hashlib.sha256(row.strip().encode()).digest()[:8]) for row in rows]
    if config.rows is not None:
        # The smallest digests; rows that are the same stay together.
        limit = sorted(digests)[min(config.rows, len(digests)) - 1]
        chosen = {number for number, digest in enumerate(digests) if digest <= limit}
    else:
        chosen = {number for number, digest in enumerate(digests) if digest < config.share * 2**64}
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
