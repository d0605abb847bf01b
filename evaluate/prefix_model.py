"""A causal model that reads packs of a prefix walk, and writes on behind a shared beginning.

Knows nothing of text. torch is imported with the module.

Shapes: V tokens of the vocabulary; the others are those of `prefix_packs.py` and `shared_attention.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from raymill.evaluate.prefix_packs import Pack, PrefixWalk, Wanted
from raymill.evaluate.shared_attention import NAME, SharedCache

CPU_TOKENS, GPU_TOKENS = 512, 8192
"""New tokens of a pack: enough to keep the processor busy, few enough that what is masked out costs little."""

LOGITS = 2**27
"""Numbers that a pack's outputs may have, 512 MiB in float32."""

PROOF_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
"""Of the logits' largest magnitude; a wrong mask or position is off by more."""


class PrefixModel:
    """Runs `model`, which stays on its device. `walk` goes on over calls of `read`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = model.device
        tokens = CPU_TOKENS if self.device.type == "cpu" else GPU_TOKENS
        self.walk = PrefixWalk(tokens, max(1, LOGITS // int(model.config.get_text_config().vocab_size)))
        self.cache: Any = None

    @torch.inference_mode()
    def read(self, wanted: Sequence[Wanted], on_pack: Callable[[Pack, Tensor, dict[int, int]], None]) -> None:
        """Read `wanted`, sorted by tokens; after each pack `on_pack` gets it, its outputs and where they are.

        The outputs are logits_OV; the mapping has the row O of each place of the pack whose output is needed.
        """
        for pack in self.walk.packs(wanted):
            past = len(pack.kept_P)
            places = sorted({int(place) for each, path in pack.ends for place in path[each.first :]})
            self.cache = self._kept(pack)
            out = self.model(
                input_ids=self._row(pack.tokens),
                position_ids=self._row(pack.depths),
                attention_mask=torch.from_numpy(pack.visible_NK())[None, None].to(self.device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=torch.tensor([place - past for place in places], device=self.device),
            )
            on_pack(pack, out.logits[0], {place: row for row, place in enumerate(places)})

    def layers(self, places: np.ndarray[Any, Any]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values, 1 x G x len(places) x D, of each layer at places of the pack that was read last."""
        chosen = torch.from_numpy(places).to(self.device)
        return [(layer.keys[:, :, chosen], layer.values[:, :, chosen]) for layer in self.cache.layers]

    @torch.inference_mode()
    def write(self, tokens: Sequence[Sequence[int]], depths_B: Tensor, cache: SharedCache) -> Tensor:
        """logits_NV behind each of the tokens that sequences go on with, the first of which stand at `depths_B`.

        The cache has room for them, and keeps what it is then told to `accept`.
        """
        counts_B = torch.tensor([len(each) for each in tokens], device=self.device)
        cache.begin(counts_B)
        depths_N = depths_B[cache.rows_N] + cache.steps_N
        with attention(self.model, NAME):
            out = self.model(
                input_ids=self._row([token for each in tokens for token in each]),
                position_ids=depths_N[None],
                # Of four dimensions it is handed through, so no other mask is made; the cache knows what is seen.
                attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device),
                past_key_values=cache,
                use_cache=True,
                shared_cache=cache,
            )
        logits_NV: Tensor = out.logits[0]
        return logits_NV

    def _row(self, values: list[int]) -> Tensor:
        return torch.tensor([values], device=self.device)

    def _kept(self, pack: Pack) -> DynamicCache:
        cache = DynamicCache()
        if len(pack.kept_P):
            for number, (keys, values) in enumerate(self.layers(pack.kept_P)):
                cache.update(keys, values, number)
        return cache


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Let the model attend with the function of that name meanwhile."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def own_window(model: Any) -> int | None:
    """Tokens that the model's sliding layers look back; None: all of them look at everything."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if kinds is None and not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def proves_itself(model: Any) -> bool:
    """Whether a small walk and two tokens more behind it give the logits that the plain model gives.

    Not all models attend to what a mask says (recurrent ones, positions in the attention), so this is tried.
    """
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return False
    vocabulary = int(model.config.get_text_config().vocab_size)
    row = [(7 * number + 3) % vocabulary for number in range(24)]
    sequences = [row[:20], row[:12] + row[20:], row[:12] + row[3:9]]
    sequences.sort()
    try:
        apart = [_plain(model, sequence) for sequence in sequences]
        together, written = _walked(model, sequences)
        behind = [_plain(model, [*sequence, 1, 2])[-2:] for sequence in sequences]
    except (
        AttributeError,
        AssertionError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        return False  # the model knows another cache, or takes other arguments
    wanted = torch.cat([*[logits[-3:] for logits in apart], *behind]).float()
    found = torch.cat([*together, written]).float()
    return bool((wanted - found).abs().max() <= PROOF_TOLERANCE[model.dtype] * wanted.abs().max())


def _plain(model: Any, sequence: list[int]) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(input_ids=torch.tensor([sequence], device=model.device)).logits[0]
    return logits


def _walked(model: Any, sequences: list[list[int]]) -> tuple[list[Tensor], Tensor]:
    """The logits at the last three tokens of each sequence, and those behind two tokens more, 1 and 2."""
    runner = PrefixModel(model)
    runner.walk.new_tokens = 22  # two packs, so that a path is kept
    found: list[Tensor] = []
    own: list[list[tuple[Tensor, Tensor]]] = []
    shared: list[tuple[Tensor, Tensor]] = []
    common = 12

    def on_pack(pack: Pack, logits: Tensor, rows: dict[int, int]) -> None:
        for each, path in pack.ends:
            found.append(logits[[rows[int(place)] for place in path[each.first :]]])
            shared[:] = runner.layers(path[:common])
            own.append(runner.layers(path[common:]))

    wanted = [
        Wanted(number, np.asarray(sequence, dtype=np.int64), len(sequence) - 3)
        for number, sequence in enumerate(sequences)
    ]
    runner.read(wanted, on_pack)
    lengths = torch.tensor([len(sequence) - common for sequence in sequences], device=model.device)
    cache = SharedCache(shared, stacked(own), lengths, 2)
    return found, runner.write([[1, 2]] * len(sequences), lengths + common, cache)


def stacked(parts: Sequence[list[tuple[Tensor, Tensor]]]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of several sequences as one batch, B x G x T x D, each pushed to the right."""
    longest = max(layers[0][0].shape[2] for layers in parts)

    def wide(part: Tensor) -> Tensor:
        return torch.nn.functional.pad(part, (0, 0, longest - part.shape[2], 0))

    return [
        (
            torch.cat([wide(layers[number][0]) for layers in parts]),
            torch.cat([wide(layers[number][1]) for layers in parts]),
        )
        for number in range(len(parts[0]))
    ]
