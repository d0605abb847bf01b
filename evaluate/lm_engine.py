"""lm-eval's Hugging Face model with an engine of our own: what prompts begin with alike is computed once.

Text becomes tokens, contexts are split from continuations and cut from the left, and chat templates are applied by
lm-eval's `HFLM`, of which this is one; only the arithmetic is ours. A model that the engine cannot run, and drawn
answers, are left to HFLM.

Shapes: V tokens of the vocabulary.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from torch import Tensor

from raymill.evaluate.lookahead import LONGEST, Lookahead
from raymill.evaluate.prefix_model import PrefixModel, own_window, proves_itself, stacked
from raymill.evaluate.prefix_packs import Pack, Wanted
from raymill.evaluate.shared_attention import SharedCache

log = logging.getLogger(__name__)

Scored = tuple[float, bool]
Request = tuple[tuple[str, str] | None, list[int], list[int]]


class PrefixLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """Use in the place of `HFLM(pretrained=model, tokenizer=tokenizer, batch_size=...)`.

    Args:
        model: a causal model in evaluation mode, on its device.
        batch_size: answers that are written at once.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.rows = batch_size
        self.window = own_window(model)
        self.tok_encode: Any = cache_of_text(super().tok_encode)
        self.able = proves_itself(model)
        if not self.able:
            log.warning("%s cannot share prefixes: lm-eval's own engine is used", type(model).__name__)

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Scored]:
        inputs = [self._cut(context, continuation) for _, context, continuation in requests]
        if not self._fits(inputs):
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)  # type: ignore[no-any-return]
        wanted = [
            Wanted(number, tokens, len(tokens) - len(requests[number][2]))
            for number, tokens in enumerate(inputs)
        ]
        found: list[Scored] = [(0.0, False)] * len(requests)

        def on_pack(pack: Pack, logits_OV: Tensor, rows: dict[int, int]) -> None:
            logs_OV = torch.log_softmax(logits_OV, dim=-1, dtype=self.softmax_dtype)
            likeliest = logits_OV.argmax(dim=-1).tolist()
            at = [[rows[int(place)] for place in path[each.first :]] for each, path in pack.ends]
            tokens = [requests[each.number][2] for each, _ in pack.ends]
            chosen = logs_OV[
                [row for part in at for row in part], [token for part in tokens for token in part]
            ]
            values = iter(chosen.tolist())
            for (each, _), part, places in zip(pack.ends, tokens, at, strict=True):
                greedy = all(likeliest[row] == token for row, token in zip(places, part, strict=True))
                found[each.number] = (sum(islice(values, len(part))), greedy)

        PrefixModel(self.model).read(in_order(wanted), on_pack)
        for (text, _, _), answer in zip(requests, found, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> np.ndarray[Any, Any]:
        """What the model reads: cut from the left as HFLM does, without the last token, behind which nothing is asked."""
        assert context
        assert 0 < len(continuation) <= self.max_length
        return np.asarray((context + continuation)[-(self.max_length + 1) :][:-1], dtype=np.int64)

    def _fits(self, inputs: Sequence[np.ndarray[Any, Any]], more: int = 0) -> bool:
        longest = max(map(len, inputs), default=0) + more
        return self.able and (self.window is None or longest <= self.window)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, as HFLM gives them. Rows that have ended leave the batch."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[repr(request.args[1])].append(number)
        found = [""] * len(requests)
        for numbers in groups.values():
            answers = self._group([requests[number] for number in numbers], disable_tqdm)
            for number, answer in zip(numbers, answers, strict=True):
                found[number] = answer
        return found

    def _group(self, requests: list[Any], disable_tqdm: bool) -> list[str]:
        """Answers to requests that have the same settings."""
        settings = normalize_gen_kwargs(requests[0].args[1], self.max_gen_toks)
        most = settings.pop("max_gen_toks")
        until = settings.pop("until")
        greedy = settings in ({"do_sample": False, "temperature": 0.0}, {"do_sample": False})
        room = self.max_length - most
        inputs = [self._encoded(request.args[0])[-room:] for request in requests] if room > 0 else []
        if not greedy or not inputs or not all(map(len, inputs)) or not self._fits(inputs, most):
            answers: list[str] = super().generate_until(requests, disable_tqdm)
            return answers
        until = handle_stop_sequences(
            until, eos=self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        )
        found = [""] * len(requests)
        model = PrefixModel(self.model)
        wanted = in_order([Wanted(number, tokens, len(tokens) - 1) for number, tokens in enumerate(inputs)])
        for start in range(0, len(wanted), self.rows):
            for number, tokens in self._written(model, wanted[start : start + self.rows], until, most):
                text = postprocess_generated_text(self.tok_decode(tokens), until, None)
                found[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return found

    def _encoded(self, text: str) -> np.ndarray[Any, Any]:
        """The tokens of a prompt by HFLM's rules for batches."""
        given = has_bos_prefix(text, getattr(self.tokenizer, "bos_token", None))
        special = False if given else self.add_bos_token
        options = {} if special is None else {"add_special_tokens": special}
        ids: list[int] = self.tokenizer(text, truncation=self.truncation, **options)["input_ids"]
        return np.asarray(ids, dtype=np.int64)

    def _written(
        self, model: PrefixModel, wanted: Sequence[Wanted], until: list[str], most: int
    ) -> Iterator[tuple[int, list[int]]]:
        """Number and new tokens of each of `wanted`, as they end."""
        # The last token of each prompt is its own, so that every row has an own part.
        common = min(
            common_length(wanted[0].tokens, wanted[-1].tokens), *(len(each.tokens) - 1 for each in wanted)
        )
        shared: list[tuple[Tensor, Tensor]] = []
        own: list[list[tuple[Tensor, Tensor]]] = []
        first: list[int] = []

        def on_pack(pack: Pack, logits_OV: Tensor, rows: dict[int, int]) -> None:
            likeliest = logits_OV.argmax(dim=-1).tolist()
            for _, path in pack.ends:
                first.append(likeliest[rows[int(path[-1])]])
                own.append(model.layers(path[common:]))
            if not shared:
                shared.extend(model.layers(pack.ends[0][1][:common]))

        model.read(wanted, on_pack)
        depths_B = torch.tensor([len(each.tokens) for each in wanted], device=self.device)
        cache = SharedCache(shared, stacked(own), depths_B - common, most + LONGEST)
        own.clear()
        answers = [
            Answering(each.number, Lookahead([*each.tokens.tolist(), token]), [token])
            for each, token in zip(wanted, first, strict=True)
        ]
        ends, stops = self._ends(), self._stops(until)
        over = [self._over(answer.tokens, ends, stops, most) for answer in answers]
        while True:
            yield from (
                (answer.number, answer.tokens) for answer, ended in zip(answers, over, strict=True) if ended
            )
            if all(over):
                return
            if any(over):
                kept = [place for place, ended in enumerate(over) if not ended]
                answers = [answers[place] for place in kept]
                rows_B = torch.tensor(kept, device=self.device)
                cache.keep(rows_B)
                depths_B = depths_B[rows_B]
            drafts = [answer.ahead.draft(most - len(answer.tokens) - 1) for answer in answers]
            asked = [[answer.tokens[-1], *draft] for answer, draft in zip(answers, drafts, strict=True)]
            likeliest = iter(model.write(asked, depths_B, cache).argmax(dim=-1).tolist())
            counts, over = [], []
            for answer, draft in zip(answers, drafts, strict=True):
                found = list(islice(likeliest, len(draft) + 1))
                right = agreeing(draft, found)
                answer.ahead.learn(len(draft), right)
                answer.ahead.add(found[: right + 1])
                counts.append(right + 1)
                over.append(self._goes_on(answer.tokens, found[: right + 1], ends, stops, most))
            counts_B = torch.tensor(counts, device=self.device)
            cache.accept(counts_B)
            depths_B = depths_B + counts_B

    def _goes_on(
        self,
        answer: list[int],
        tokens: Sequence[int],
        ends: frozenset[int],
        stops: list[tuple[str, int]],
        most: int,
    ) -> bool:
        """Add tokens to an answer up to its end; True when it is over."""
        for token in tokens:
            answer.append(token)
            if self._over(answer, ends, stops, most):
                return True
        return False

    def _over(self, answer: list[int], ends: frozenset[int], stops: list[tuple[str, int]], most: int) -> bool:
        return len(answer) == most or answer[-1] in ends or self._stopped(answer, stops)

    def _stops(self, until: list[str]) -> list[tuple[str, int]]:
        """Each stop, and in how many of the last tokens it is looked for."""
        return [
            (stop, len(self.tokenizer.encode(stop, add_special_tokens=False)) + 2) for stop in until if stop
        ]

    def _ends(self) -> frozenset[int]:
        """Tokens behind which an answer is over."""
        given = self.model.generation_config.eos_token_id
        listed = given if isinstance(given, list) else [] if given is None else [given]
        return frozenset([*listed, self.eot_token_id])

    def _stopped(self, row: list[int], stops: list[tuple[str, int]]) -> bool:
        """Whether the newest token completes a stop, by HFLM's rule: in the text of the last tokens, special ones too."""
        return any(
            stop in self.tok_decode(row[-window:], skip_special_tokens=False) for stop, window in stops
        )


class Answering(NamedTuple):
    """An answer that is being written."""

    number: int
    ahead: Lookahead
    tokens: list[int]


def agreeing(draft: Sequence[int], found: Sequence[int]) -> int:
    """How many tokens of a draft are those that were found in its places."""
    right = 0
    while right < len(draft) and draft[right] == found[right]:
        right += 1
    return right


def in_order(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Sorted by tokens, those that begin alike side by side."""
    return sorted(wanted, key=lambda each: each.tokens.tolist())


def common_length(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> int:
    """How many tokens two sequences begin with alike; of sorted sequences, the first and the last tell it of all."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if different.size else length


def cache_of_text(encode: Any) -> Any:
    """Choices of one question have the same context; it is made into tokens once."""
    remembered = lru_cache(maxsize=16)(lambda text, special: tuple(encode(text, special)))

    def tok_encode(
        text: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None
    ) -> list[int]:
        ids = list(remembered(text, add_special_tokens))
        return ids[-left_truncate_len:] if left_truncate_len else ids

    return tok_encode
