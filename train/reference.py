"""Log-probabilities of the model that training starts from, once, before the first step.

The workers score every example with the model as it is then: fresh adapters change nothing, so with LoRA too
it is the base. The values lie in the work directory, and a resumed run takes them up; so no second model is
held, and none is needed after the first step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from raymill.train.loop import Engine, Shares
from raymill.train.preferences import ReferencedShares

REFERENCE = "reference.npy"
HELD_OUT_REFERENCE = "held-out-reference.npy"


def take_reference(engine: Engine, shares: Shares, work_dir: Path, name: str = REFERENCE) -> bool:
    """Give `shares` its reference values, if it needs any. Every worker calls it, before the engine loads.

    Args:
        name: of the file in `work_dir` that keeps them.

    Returns:
        Whether they were computed, not read.
    """
    if not isinstance(shares, ReferencedShares):
        return False
    path = work_dir / name
    # All or none: a worker whose machine does not see the file yet would wait for the others for ever.
    seen = engine.total(torch.full((1,), float(path.is_file()), device=engine.device))
    if float(seen[0]) == engine.workers:
        shares.reference_N = np.load(path)
        return False
    logps_N = torch.zeros(len(shares.examples), device=engine.device)
    for batch in shares.scoring(engine.rank, engine.workers):
        logps_N[torch.from_numpy(batch.examples_E).to(engine.device)] = engine.score(batch)
    shares.reference_N = engine.total(logps_N).cpu().numpy()
    if engine.rank == 0:
        partial = work_dir / f"partial-{name}"
        np.save(partial, shares.reference_N)
        partial.rename(path)
    return True
