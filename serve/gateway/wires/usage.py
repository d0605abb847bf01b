"""Tokens: what a provider counted, what a request will roughly take, and what it cannot exceed.

The bounds serve exact budgets: a reservation of them is never too small. A token is at least one byte of
UTF-8 text; an image is taken as 4,000 tokens whatever its bytes. Knows no tokenizer and no prices. Reads
requests of every wire (chat, text completions, embeddings, Responses, Messages).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from raymill.serve.gateway.wires.shape import Json

IMAGE_TOKENS = 4000
MESSAGE_TOKENS = 16
"""For each message at the most: its role and what a chat template puts around it."""

IMAGES = frozenset({"image", "image_url", "input_image"})
PROMPTS = ("messages", "input", "prompt", "system", "instructions", "suffix")
SCHEMAS = ("tools", "functions", "response_format", "text", "output_config")


class Tokens(NamedTuple):
    prompt: int
    """All tokens of the prompt, the cached ones among them."""

    cached: int
    completion: int


class Weight(NamedTuple):
    """What a request holds."""

    text_bytes: int
    messages: int
    images: int


def tokens_of(usage: Json) -> Tokens | None:
    """What a provider counted; None when `usage` tells nothing.

    Args:
        usage: As in OpenAI chat, completions and embeddings ({"prompt_tokens", "completion_tokens",
            "prompt_tokens_details": {"cached_tokens"}}, DeepSeek's prompt_cache_hit_tokens too), OpenAI
            Responses ({"input_tokens", "output_tokens", "input_tokens_details"}) or Anthropic Messages
            ({"input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"},
            where the input tokens do not hold the cached ones).
    """
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        details = usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
        cached = cached or _count(usage.get("prompt_cache_hit_tokens"))
        prompt = _count(usage.get("prompt_tokens"))
        return Tokens(prompt, min(cached, prompt), _count(usage.get("completion_tokens")))
    if "input_tokens" not in usage and "output_tokens" not in usage:
        return None
    prompt = _count(usage.get("input_tokens"))
    completion = _count(usage.get("output_tokens"))
    details = usage.get("input_tokens_details")
    if isinstance(details, dict):
        return Tokens(prompt, min(_count(details.get("cached_tokens")), prompt), completion)
    cached = _count(usage.get("cache_read_input_tokens"))
    written = _count(usage.get("cache_creation_input_tokens"))
    return Tokens(prompt + cached + written, cached, completion)


def estimate_prompt_tokens(body: Json) -> int:
    """Roughly: a token for each four bytes, and a quarter of the bound for each image. At least 1."""
    weight = weigh(body)
    return max(1, -(-weight.text_bytes // 4) + weight.images * (IMAGE_TOKENS // 4))


def prompt_tokens_bound(body: Json) -> int:
    """No tokenizer makes more of this request: one token for each byte of all text that the model sees,
    tools and schemas included, and 16 for each message and 4,000 for each image."""
    weight = weigh(body)
    return weight.text_bytes + weight.messages * MESSAGE_TOKENS + weight.images * IMAGE_TOKENS


def output_tokens_bound(body: Json, default: int) -> int:
    """The most tokens that the answer can have: the limit the request sets, for each choice of each prompt.

    Args:
        default: Taken when the request sets no limit, or none that is a whole number.
    """
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    limit = max(_count(body.get(name)) for name in names) or default
    choices = max(1, _count(body.get("n")), _count(body.get("best_of")))
    prompt = body.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        prompts = len(prompt)
    return limit * choices * prompts


def weigh(body: Json) -> Weight:
    """What is in the request, without reading bytes of images."""
    text_bytes = messages = images = 0
    left: list[Any] = []
    for name in PROMPTS:
        value = body.get(name)
        if value is None:
            continue
        messages += len(value) if isinstance(value, list) and name in {"messages", "input"} else 1
        left.append(value)
    for name in SCHEMAS:
        value = body.get(name)
        if value is None:
            continue
        try:
            text_bytes += len(msgspec.json.encode(value))
        except RecursionError:
            left.append(value)
    # A stack and not a recursion: the client decides how deep its JSON is.
    while left:
        value = left.pop()
        if isinstance(value, str):
            text_bytes += _bytes_of(value)
        elif isinstance(value, dict):
            kind = value.get("type")
            if isinstance(kind, str) and kind in IMAGES:
                images += 1
                continue
            # Names stand for themselves, for the quotes and for what separates them.
            text_bytes += sum(_bytes_of(name) + 6 for name in value)
            left.extend(value.values())
        elif isinstance(value, list):
            text_bytes += 2 * len(value)
            left.extend(value)
        else:
            text_bytes += len(str(value))
    return Weight(text_bytes, messages, images)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
