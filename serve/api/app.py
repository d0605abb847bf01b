"""The control plane's HTTP: `/api/v1`, and `/code/v1` beside it. Turns requests into calls of the registry's services, and back.

Only this edge turns errors into status codes:

    Unauthenticated 401   Denied 403   NotFound 404   Conflict 409   TooLarge 413   Invalid 422
    LimitReached, TooManyAttempts 429   Unavailable 503   DiskFull 507
"""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve import Application
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymill.cluster import logs
from raymill.cluster.numbers import Publisher
from raymill.cluster.processes import collect_garbage_seldom
from raymill.cluster.ray_head import at_head
from raymill.cluster.settings import Settings
from raymill.policies.errors import Conflict, Denied, Invalid, NotFound, RaymillError, Unavailable
from raymill.registry.artifacts import Tampered
from raymill.registry.audit_chain import AuditBroken
from raymill.registry.code import LimitReached
from raymill.registry.database import is_away
from raymill.registry.login_attempts import TooManyAttempts
from raymill.registry.sessions import NotLoggedIn
from raymill.registry.signing import Revoked, Unsigned
from raymill.registry.uploads import DiskFull, TooLarge
from raymill.serve.api import ws
from raymill.serve.api.access import PREFIX, check_complete
from raymill.serve.api.bell import Bell
from raymill.serve.api.context import READS, Parts, Unauthenticated, caller, request_id_of
from raymill.serve.api.hardening import Hardened
from raymill.serve.api.news import News
from raymill.serve.api.numbers import Counted
from raymill.serve.api.routes import (
    browser,
    browser_sso,
    changes,
    datasets,
    drift,
    evaluations,
    feedback,
    governance,
    health,
    hooks,
    identity,
    jobs,
    llms,
    master_keys,
    oidc,
    personal,
    pipelines,
    policies,
    prices,
    promotions,
    providers,
    queues,
    routes,
    runs,
    searches,
    sessions,
    signing,
    status,
    teams,
    triggers,
    uploads,
    usage,
)
from raymill.serve.api.traced import Traced
from raymill.serve.code import routes as code_routes
from raymill.serve.console import site
from raymill.serve.gateway.direct import answer_directly
from raymill.serve.loopback import keep_to_loopback

log = logging.getLogger(__name__)

keep_to_loopback()

STATUS: list[tuple[type[RaymillError], int]] = [
    (Unauthenticated, 401),
    (NotLoggedIn, 401),
    (Denied, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Tampered, 409),
    (AuditBroken, 409),
    (Unsigned, 409),
    (Revoked, 409),
    (Invalid, 422),
    (TooLarge, 413),
    (LimitReached, 429),
    (TooManyAttempts, 429),
    (Unavailable, 503),
    (DiskFull, 507),
]


def create_app(parts: Parts) -> FastAPI:
    """The application, without Ray: tests and `build` mount the same one."""
    app = FastAPI(
        title="Raymill control plane",
        version="1",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    hold(app, parts)
    for module in (
        pipelines,
        jobs,
        queues,
        runs,
        triggers,
        hooks,
        drift,
        searches,
        ws,
        llms,
        evaluations,
        datasets,
        uploads,
        governance,
        signing,
        promotions,
        policies,
        identity,
        sessions,
        oidc,
        browser,
        browser_sso,
        changes,
        master_keys,
        personal,
        status,
        providers,
        prices,
        routes,
        teams,
        usage,
        feedback,
    ):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(code_routes.router, prefix=code_routes.PREFIX)
    app.include_router(health.router)
    app.mount(site.PREFIX, files := site.Site())
    app.router.routes.append(Route(site.PREFIX, files))
    check_complete(app.routes, caller)
    settings = parts.settings
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-request-id"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Hardened, limit_bytes=settings.max_body_bytes)
    app.add_middleware(Counted)
    app.add_middleware(Traced)
    app.add_middleware(WithRequestId)  # the last one is the outermost
    app.add_exception_handler(RaymillError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(DBAPIError, _on_database_error)
    app.add_exception_handler(psycopg.Error, _on_database_error)  # of what speaks to it without SQLAlchemy
    app.add_exception_handler(PoolTimeout, _on_busy)
    app.add_exception_handler(Exception, _on_bug)
    return app


def hold(app: FastAPI, parts: Parts) -> None:
    """Have the application answer from `parts`."""
    app.state.parts = parts
    app.state.bell = Bell(parts.database.url)
    app.state.news = News(parts.database, app.state.bell)
    app.state.queue_numbers = ws.QueueNumbers(parts.database)


def build() -> Application:
    """The control plane as a Serve application; its parts are made in the replica."""

    def app_in_replica() -> FastAPI:
        settings = Settings()
        logs.set_up_replica("api", settings.logs_dir)
        parts = Parts(settings=settings, database=settings.open_database(pool_size=10))
        app = create_app(parts)
        Publisher(settings.metrics_dir, "api", parts.numbers.families, database=parts.database).start()
        answer_directly(app, (f"{PREFIX}/", f"{code_routes.PREFIX}/", site.PREFIX))
        collect_garbage_seldom()
        return app

    class ControlPlane:
        """Stateless: any replica may answer."""

    ingress = serve.ingress(app_in_replica)(ControlPlane)
    # Open event streams count as ongoing requests, and there are many of them.
    deployment = serve.deployment(
        name="api",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0, "resources": at_head(Settings())},
        health_check_timeout_s=60,
    )
    return deployment(ingress).bind()


class WithRequestId:
    """Gives each request its id, for the handlers (`request.state`) and for the caller (`x-request-id`); what is known of
    keys is forgotten before the answer to a request that may have changed something."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        logs.about(request_id=request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                if scope["method"] not in READS:
                    scope["app"].state.parts.keys.forget()
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def _answer(
    request: Request,
    status_code: int,
    code: str,
    message: str,
    param: str | None = None,
    retry_after_s: int | None = None,
) -> JSONResponse:
    kind = "server_error" if status_code >= 500 else "invalid_request_error"
    error: dict[str, Any] = {
        "type": kind,
        "code": code,
        "message": message,
        "param": param,
        "request_id": getattr(request.state, "request_id", None),
    }
    headers = {"WWW-Authenticate": "Bearer"} if status_code == 401 else {}
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return JSONResponse({"error": error}, status_code=status_code, headers=headers)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RaymillError)
    # The most particular class wins: Tampered is an Invalid.
    matches = [(cls, status_code) for cls, status_code in STATUS if isinstance(error, cls)]
    status_code = max(matches, key=lambda match: len(match[0].__mro__))[1] if matches else 400
    return _answer(
        request,
        status_code,
        error.code,
        str(error),
        getattr(error, "param", None),
        getattr(error, "retry_after_s", None),
    )


async def _on_bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", "syntax error")
        return _answer(request, 422, "invalid", f"the body is no JSON ({detail}): correct it")
    where = ".".join(str(part) for part in first["loc"] if part not in {"body", "query", "path", "header"})
    return _answer(request, 422, "invalid", f"{where or 'body'}: {first['msg']}", where or None)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = (
        f"{request.method} {request.url.path}: {error.detail}; {PREFIX}/openapi.json lists what there is"
    )
    return _answer(request, error.status_code, "http_error", message)


async def _on_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DBAPIError | psycopg.Error)
    if is_away(error):
        return _answer(request, 503, "unavailable", "the database is away: try again in a few seconds")
    if isinstance(error, DataError | psycopg.DataError):  # a NUL, or a number too large
        return _answer(request, 422, "invalid", "a value here is none that can be stored: correct it")
    log.exception("database error", exc_info=error)
    return _answer(request, 500, "internal", "the database refused this: the server's log says why")


async def _on_busy(request: Request, _: Exception) -> Response:
    return _answer(
        request, 503, "unavailable", "all database connections are in use: try again in a few seconds"
    )


async def _on_bug(request: Request, _: Exception) -> Response:
    # Starlette logs the traceback.
    return _answer(request, 500, "internal", "this is a fault of ours: the server's log says what happened")
