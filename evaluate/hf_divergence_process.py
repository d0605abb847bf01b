"""The child process that reads what a model in Hugging Face layout predicts, compressed or not. Its output is the log.

    python -m raymill.evaluate.hf_divergence_process base MODEL ROWS DIRECTORY
    python -m raymill.evaluate.hf_divergence_process compare MODEL ROWS DIRECTORY REPORT

ROWS is a JSON file with lists of token ids. `base` keeps the predictions in DIRECTORY, `compare` writes how far MODEL lies
from them to REPORT, as JSON. `divergence_process` is the same for GGUF files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from raymill.evaluate.child import die_with_parent
from raymill.evaluate.divergence import Base, BaseWriter, Comparison, in_pieces


def main() -> None:
    die_with_parent()
    what, directory, texts, base, *report = sys.argv[1:]
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", local_files_only=True)
    model = model.to(device).eval()
    side = BaseWriter(Path(base)) if what == "base" else Comparison(Base(Path(base)))
    for row in json.loads(Path(texts).read_text(encoding="utf-8")):
        with torch.inference_mode():
            logits_1TV = model(torch.tensor([row], device=device)).logits
        logits_NV = logits_1TV[0, :-1].float().cpu().numpy()
        for piece in in_pieces(np.array(row[1:], dtype=np.int64), logits_NV):
            side.add(*piece)
    if isinstance(side, BaseWriter):
        side.close()
    else:
        Path(report[0]).write_text(json.dumps(side.result().as_json()), encoding="utf-8")


if __name__ == "__main__":
    main()
