"""A process of its own: vLLM's prompt for each request on stdin, by the steps of its chat endpoint, and where it stops.

Importing vLLM takes a quarter of a minute and changes the process, so tests ask here.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(directory: str) -> None:
    from vllm.config import ModelConfig
    from vllm.entrypoints.chat_utils import parse_chat_messages
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template
    from vllm.tokenizers import get_tokenizer

    config = ModelConfig(model=directory, dtype="float32", max_model_len=512)
    tokenizer = get_tokenizer(directory)

    def rendered(body: dict[str, Any]) -> str:
        request = ChatCompletionRequest(model="m", **body)
        tools = [tool.model_dump() for tool in request.tools] if request.tools else None
        params = request.build_chat_params(None, "auto").with_defaults({"tools": tools, "tokenize": False})
        conversation, _, _ = parse_chat_messages(
            request.messages,
            config,
            content_format=resolve_chat_template_content_format(
                chat_template=None, tools=tools, given_format="auto", tokenizer=tokenizer, model_config=config
            ),
        )
        text = safe_apply_chat_template(
            config, tokenizer, conversation, **params.get_apply_chat_template_kwargs()
        )
        return str(text)

    prompts = [rendered(body) for body in json.load(sys.stdin)]
    # What the engine adds to every request's sampling parameters, beside the tokenizer's own end.
    stops = config.try_get_generation_config().get("eos_token_id")
    found = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}
    json.dump({"prompts": prompts, "stops": sorted(found - {None})}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
