"""A model in Hugging Face layout, loaded once, that answers conversations greedily in batches.

A plain class; `actors.py` makes it remote. Its process may be lost at any time, and nothing is lost with
it. torch and transformers are imported in `load`, not with the module: the driver never needs them.

Shapes: B conversations, T tokens in the longest prompt, N new tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raymill.cluster.settings import Settings
from raymill.evaluate.benchmark_config import BenchmarkTask
from raymill.evaluate.config import HumanEvalTask, LmEvalTask
from raymill.evaluate.humaneval import (
    STOPS,
    Problem,
    judged,
    prompts_of,
)
from raymill.evaluate.lm_eval_tasks import LmEvalTasks
from raymill.evaluate.prompts import (
    Answer,
    Conversation,
    answer_of,
    document_ids,
    load_tokenizer,
    render_all,
    stop_ids,
    token_ids,
)
from raymill.evaluate.samples import Record
from raymill.evaluate.sandbox.runner import Sandbox
from raymill.policies.errors import Invalid

LOGITS = 2**27
"""Of them are held at once when text is scored: 512 MiB in float32, and as much again while they are summed."""


class HfModel:
    """Weights and tokenizer from one directory."""

    def __init__(self, directory: str, dtype: str = "float32", *, offline: bool = True) -> None:
        self.directory = Path(directory)
        self.dtype = dtype
        self.offline = offline
        self.model: Any = None
        self.tokenizer: Any = None
        self.stops: list[int] = []
        self._loaded_tasks: dict[str, LmEvalTasks] = {}
        self._engine: Any = None

    def load(self) -> None:
        """Read the weights. A second call does nothing.

        Raises:
            Invalid: the directory is no model in Hugging Face layout with safetensors.
        """
        if self.model is not None:
            return
        Settings().artifacts.here(self.directory)
        if not any(self.directory.glob("*.safetensors")):
            raise Invalid(f"{self.directory.name} has no *.safetensors: give a model in Hugging Face layout")
        if self.offline:
            # The libraries would otherwise ask the hub about a model that lies on this disk.
            os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the batch is small, and each actor has its threads
        self.tokenizer = load_tokenizer(self.directory)
        self.stops = stop_ids(self.tokenizer, self.directory)

        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(
            str(self.directory),
            dtype=getattr(torch, self.dtype),
            local_files_only=True,
            use_safetensors=True,
        )
        self.model = model.to(device).eval()
        # generate() fills what we leave open from the model's own settings (temperature, penalties), so
        # these are replaced: greedy means greedy.
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            eos_token_id=self.stops or None,
            pad_token_id=self.pad_id,
        )

    @property
    def pad_id(self) -> int:
        if self.tokenizer.pad_token_id is not None:
            return int(self.tokenizer.pad_token_id)
        return self.stops[0] if self.stops else 0

    def generate(
        self,
        conversations: list[Conversation],
        max_new_tokens: int,
        tools: Sequence[Sequence[dict[str, Any]]] | None = None,
    ) -> list[Answer]:
        """Answer each conversation, as if it were the only one; `tools` has those of each.

        Raises:
            Invalid: a prompt and its answer do not fit into the model's context.
        """
        import torch

        self.load()
        prompts = render_all(self.tokenizer, conversations, tools)
        ids = [token_ids(self.tokenizer, prompt) for prompt in prompts]
        longest = max(map(len, ids))
        self._check_room(longest, max_new_tokens)
        # Padding stands on the left, so that the newest token of every row is in the last column.
        ids_BT = torch.tensor([[self.pad_id] * (longest - len(row)) + row for row in ids])
        mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
        with torch.inference_mode():
            out_BTN = self.model.generate(
                input_ids=ids_BT.to(self.model.device),
                attention_mask=mask_BT.to(self.model.device),
                max_new_tokens=max_new_tokens,
            )
        new_BN: list[list[int]] = out_BTN[:, longest:].tolist()
        return [
            answer_of(self.tokenizer, prompt, len(row), new, self.stops)
            for prompt, row, new in zip(prompts, ids, new_BN, strict=True)
        ]

    def _check_room(self, longest: int, max_new_tokens: int) -> None:
        room = getattr(self.model.config, "max_position_embeddings", None)
        if room is not None and longest + max_new_tokens > room:
            raise Invalid(
                f"a prompt has {longest} tokens and max_new_tokens is {max_new_tokens}, but the context of "
                f"{self.directory.name} is {room}: lower max_new_tokens or shorten the row"
            )

    def encode(self, texts: list[str]) -> dict[str, Any]:
        """`ids` of each text behind a start token, and `context`, the most tokens that the model takes; None: any.

        Raises:
            Invalid: the tokenizer has no token to start a text with.
        """
        self.load()
        return {
            "ids": document_ids(self.tokenizer, texts, self.directory.name),
            "context": getattr(self.model.config, "max_position_embeddings", None),
        }

    def score(self, windows: list[list[int]], counted: list[int]) -> list[float]:
        """Negative log-likelihood, in nats, of the last `counted` tokens of each window, given those before them."""
        import torch

        self.load()
        longest = max(map(len, windows))
        at_once = max(1, LOGITS // (longest * len(self.tokenizer)))
        found: list[float] = []
        for start in range(0, len(windows), at_once):
            part, counts = windows[start : start + at_once], counted[start : start + at_once]
            tokens = max(map(len, part))
            # Padding stands on the right, where no counted token sees it.
            ids_BT = torch.tensor([row + [self.pad_id] * (tokens - len(row)) for row in part])
            mask_BT = torch.tensor([[1] * len(row) + [0] * (tokens - len(row)) for row in part])
            ids_BT, mask_BT = ids_BT.to(self.model.device), mask_BT.to(self.model.device)
            with torch.inference_mode():
                logits_BTV = self.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
                for row, count, logits_TV, ids_T in zip(part, counts, logits_BTV, ids_BT, strict=True):
                    first = len(row) - count
                    nll_T = torch.nn.functional.cross_entropy(
                        logits_TV[first - 1 : len(row) - 1].float(), ids_T[first : len(row)], reduction="none"
                    )
                    found.append(float(nll_T.double().sum()))
        return found

    def lm_eval_shard(
        self, task: dict[str, Any], number: int, shards: int, batch: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Samples of part `number` of `shards` parts of the documents of an lm-eval task or a benchmark."""
        self.load()
        return self._tasks(task).shard(self.engine(batch), number, shards)

    def engine(self, batch: int) -> Any:
        """The loaded model as lm-eval takes it; `batch` answers are written at once."""
        from raymill.evaluate.lm_engine import PrefixLM  # imports torch and lm-eval

        if self._engine is None or self._engine.rows != batch:
            self._engine = PrefixLM(self.model, self.tokenizer, batch)
        return self._engine

    def lm_eval_metrics(
        self, task: dict[str, Any], samples: dict[str, list[dict[str, Any]]]
    ) -> dict[str, Any]:
        """As `LmEvalTasks.reported`, of all samples of a task."""
        return self._tasks(task).reported(samples)

    def complete(
        self, prompts: list[str], stops: Sequence[str], max_new_tokens: int, **drawn: Any
    ) -> list[str]:
        """What follows each of `prompts`, up to the first of `stops`, as lm-eval's `generate_until` has it.

        Args:
            drawn: `temperature` and `top_p`, when tokens are drawn; without them the most likely are taken.

        Raises:
            Invalid: a prompt and its answer do not fit into the model's context.
        """
        from lm_eval.api.instance import Instance

        self.load()
        lm = self.engine(len(prompts))
        self._check_room(max(len(lm.tok_encode(prompt)) for prompt in prompts), max_new_tokens)
        options = {"until": list(stops), "max_gen_toks": max_new_tokens, "do_sample": bool(drawn), **drawn}
        requests = [
            Instance(request_type="generate_until", doc={}, arguments=(prompt, options), idx=number)
            for number, prompt in enumerate(prompts)
        ]
        answers: list[str] = lm.generate_until(requests, disable_tqdm=True)
        return answers

    def prove_sandbox(self, task: dict[str, Any]) -> None:
        """Raises: SandboxRefused: this node cannot run code safely."""
        Sandbox(HumanEvalTask.model_validate(task).sandbox).prove()

    def humaneval(
        self, task: dict[str, Any], asked: list[tuple[Problem, int]], number: int, programs: int
    ) -> list[Record]:
        """An answer to each of `asked`, a problem and which of its answers it is; written, then run.

        Args:
            number: of this call; drawn answers are the same when it is made again.
            programs: that run at once.
        """
        import torch

        config = HumanEvalTask.model_validate(task)
        torch.manual_seed(config.seed + number)
        # top_k 0: every token may be drawn; transformers would keep to the 50 most likely.
        drawn = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        self.load()
        prompts = prompts_of(self.tokenizer, config, asked)
        answers = self.complete(
            prompts, STOPS, config.max_new_tokens, **(drawn if config.samples > 1 else {})
        )
        return judged(config, asked, prompts, answers, programs)

    def _tasks(self, task: dict[str, Any]) -> LmEvalTasks:
        key = repr(sorted(task.items()))
        if key not in self._loaded_tasks:
            kind = BenchmarkTask if "benchmark" in task else LmEvalTask
            self._loaded_tasks[key] = LmEvalTasks(kind.model_validate(task))
        return self._loaded_tasks[key]
