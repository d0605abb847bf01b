"""From the model name in a request to a route: preset, route, our version, provider/model, listed model."""

from __future__ import annotations

import datetime as dt
from typing import Any

from raymill.serve.gateway.catalog import Preset, Route, direct_route
from raymill.serve.gateway.snapshot import Snapshot
from raymill.serve.gateway.wire import Ask, Refused

SHOWN = 20
"""Names in the error of an unknown one."""

MAX_MODEL_CHARS = 200


def find_route(snapshot: Snapshot, name: str) -> Route:
    """Raises Refused: 404, naming what there is."""
    route = snapshot.routes.get(name)
    if route is not None:
        return route
    provider_name, slash, model = name.partition("/")
    provider = snapshot.providers.get(provider_name)
    # Not only what a provider listed: lists are often older than models.
    if provider is not None and slash and model and len(name) <= MAX_MODEL_CHARS and name.isprintable():
        return direct_route(provider, model)
    names = sorted({*snapshot.routes, *snapshot.presets})
    listed = ", ".join(names[:SHOWN]) or "nothing yet: promote a version, or add a provider"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise Refused(
        404, "model_not_found", f"model {name[:100]!r} is not served; served: {listed}{more}", param="model"
    )


LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""What the longest answer is called, on one wire or another."""


def with_preset(ask: Ask, preset: Preset) -> None:
    """Put a persona's model, system prompt and parameters into `ask`; what the client said itself wins.

    Raises:
        Refused: 400, the prompt is tokens, before which no text can be put.
    """
    ask.model = preset.model
    defaults = {name: value for name, value in preset.params.items() if name not in LIMITS}
    limit = next((preset.params[name] for name in LIMITS if name in preset.params), None)
    if limit is not None and all(ask.body.get(name) is None for name in LIMITS):
        defaults["max_output_tokens" if ask.operation == "responses" else "max_tokens"] = limit
    body: dict[str, Any] = {**defaults, **ask.body}
    if preset.system:
        _add_system(body, ask.operation, preset.system)
    ask.body = body


def _add_system(body: dict[str, Any], operation: str, system: str) -> None:
    if operation == "chat":
        body["messages"] = [{"role": "system", "content": system}, *body["messages"]]
    elif operation == "completions":
        body["prompt"] = _prompt_after(system, body["prompt"])
    elif operation == "responses":
        own = body.get("instructions")
        body["instructions"] = f"{system}\n\n{own}" if own else system
    elif operation == "messages":
        own = body.get("system")
        if isinstance(own, list):
            body["system"] = [{"type": "text", "text": system}, *own]
        else:
            body["system"] = f"{system}\n\n{own}" if own else system


def _prompt_after(system: str, prompt: str | list[Any]) -> str | list[str]:
    if isinstance(prompt, str):
        return f"{system}\n\n{prompt}"
    if all(isinstance(text, str) for text in prompt):
        return [f"{system}\n\n{text}" for text in prompt]
    raise Refused(
        400,
        "invalid_request",
        "prompt is tokens, and the preset's system prompt is text: send text, or use a model without a preset",
        param="prompt",
    )


def listing(snapshot: Snapshot, anthropic: bool = False) -> dict[str, Any]:
    """`GET /v1/models`, on the OpenAI wire or on Anthropic's."""
    shown = [model(snapshot, name, anthropic) for name in (*snapshot.presets, *snapshot.routes)]
    if not anthropic:
        return {"object": "list", "data": shown}
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"data": shown, "has_more": False, "first_id": first, "last_id": last}


def model(snapshot: Snapshot, name: str, anthropic: bool = False) -> dict[str, Any]:
    """One model. Raises Refused: 404."""
    preset = snapshot.presets.get(name)
    route = None if preset is not None else find_route(snapshot, name)
    created = preset.created if preset is not None else route.created if route is not None else 0
    if anthropic:
        when = dt.datetime.fromtimestamp(created, dt.UTC).isoformat()
        return {"type": "model", "id": name, "display_name": name, "created_at": when, "lifecycle": "active"}
    owner = route.owned_by if route is not None else "raymill"
    shown = {"id": name, "object": "model", "created": created, "owned_by": owner}
    if preset is not None:
        shown["preset_of"] = preset.model
    elif route is not None and route.served_version is not None:
        shown["served_version"] = route.served_version
    return shown
