"""Embeddings on the Gemini API, asked and answered as OpenAI embeddings.

Sources: OpenAI API reference (Embeddings, create), Gemini API reference (batchEmbedContents). Gemini takes
texts, not tokens. It does not always count them: then the usage is an estimate.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from raymill.policies.errors import Invalid
from raymill.serve.gateway.wires.errors import BadAnswer, Untranslatable, provider_error, reads_answer
from raymill.serve.gateway.wires.shape import Json, a_list, a_text, told
from raymill.serve.gateway.wires.usage import estimate_prompt_tokens


def gemini_of_embeddings(body: Json) -> Json:
    """The body for `models/{model}:batchEmbedContents` ({"requests": [{"model", "content", …}]}).

    Args:
        body: For `POST /v1/embeddings`; `user` and fields that OpenAI does not define are dropped.

    Raises:
        Untranslatable: the input is tokens.
        Invalid: the request is malformed.
    """
    value = body.get("input")
    texts = [value] if isinstance(value, str) else a_list(value, "input")
    if not texts:
        raise Invalid("input is empty: send at least one text", param="input")
    model = a_text(body.get("model"), "model")
    model = model if model.startswith("models/") else f"models/{model}"
    common: Json = {"model": model}
    if body.get("dimensions") is not None:
        common["outputDimensionality"] = body["dimensions"]
    requests = []
    for number, text in enumerate(texts):
        if isinstance(text, int | list):
            raise Untranslatable("input is tokens, and Gemini embeds text: send texts", param="input")
        part = {"text": a_text(text, f"input[{number}]")}
        requests.append({**common, "content": {"parts": [part]}})
    wanted = body.get("encoding_format")
    if wanted not in (None, "float", "base64"):
        raise Invalid(f"encoding_format is {told(wanted)}: use float or base64", param="encoding_format")
    return {"requests": requests}


@reads_answer
def embeddings_of_gemini(answer: Json, body: Json) -> Json:
    """A batchEmbedContents response ({"embeddings": [{"values"}]}) as OpenAI embeddings.

    Args:
        body: The OpenAI request: its model, its encoding_format, and its texts for the estimate.

    Raises:
        BadAnswer: it is none, or has not one embedding for each text.
        ProviderError: it is an error.
    """
    if "error" in answer:
        raise provider_error(answer)
    vectors = [embedding["values"] for embedding in answer["embeddings"]]
    asked = 1 if isinstance(body["input"], str) else len(body["input"])
    if len(vectors) != asked:
        raise BadAnswer(f"Gemini gave {len(vectors)} embeddings for {asked} texts: ask again")
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    counted: Any = (answer.get("usageMetadata") or {}).get("promptTokenCount")
    tokens = counted if isinstance(counted, int) else estimate_prompt_tokens({"input": body["input"]})
    return {
        "object": "list",
        "data": data,
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats, as OpenAI's packages ask for and read."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError) as error:
        raise BadAnswer(
            f"Gemini gave an embedding that is no vector of numbers ({error}): ask again"
        ) from None
