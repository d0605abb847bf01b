"""Logins at an identity provider: a real one over HTTP, and everything that a token can be wrong in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import SecretStr
from tests.registry.making import World
from tests.serve.control_app import app_of
from tests.serve.listening import listening
from tests.serve.oidc_provider import CLIENT, SECRET, OidcProvider

from raymill.client.cli.main import run
from raymill.cluster.settings import Settings
from raymill.registry import oidc
from raymill.registry.sessions import NotLoggedIn
from raymill.registry.tables import Role
from raymill.serve.api.context import Parts

API = "/api/v1"
BACK = "http://127.0.0.1:9/callback"
ORIGIN = "https://service.example"
OURS = {"x-raymill-console": "1"}


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    made = OidcProvider()
    with listening(made.app()) as url:
        made.issuer = url
        yield made
    oidc.provider_of.cache_clear()


@pytest.fixture
def client(world: World, provider: OidcProvider) -> Iterator[TestClient]:
    settings = Settings(
        home=world.home,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret=SecretStr(SECRET),
    )
    settings.secret_box.create_if_missing()
    app = app_of(Parts(settings=settings, database=world.database))
    with TestClient(app, raise_server_exceptions=False) as made:
        made.headers["authorization"] = f"Bearer {world.add_key(Role.ADMIN)}"
        yield made


def come_back(client: TestClient, **changes: str) -> dict[str, str]:
    """What the browser brings back from the provider."""
    started = client.post(f"{API}/oidc/start", json={"redirect_uri": BACK})
    assert started.status_code == 201, started.text
    went = httpx.get(started.json()["url"])
    assert went.headers["location"].startswith(BACK)
    answer = {name: values[0] for name, values in parse_qs(urlsplit(went.headers["location"]).query).items()}
    assert answer["state"] == started.json()["state"]
    return {**answer, **changes}


def finish(client: TestClient, answer: dict[str, str]) -> Response:
    return client.post(f"{API}/oidc/finish", json=answer)


def link(client: TestClient, subject: str) -> None:
    client.post(f"{API}/accounts", json={"name": "ada", "role": "operator"}).raise_for_status()
    client.put(f"{API}/accounts/ada/identity", json={"subject": subject}).raise_for_status()


def test_a_linked_subject_logs_in_once_for_each_answer(client: TestClient, provider: OidcProvider) -> None:
    refused = finish(client, come_back(client))
    assert (refused.status_code, "`raymill user link" in refused.text) == (401, True)
    link(client, provider.person)
    answer = come_back(client)
    done = finish(client, answer)
    assert (done.status_code, done.json()["account"], done.json()["role"]) == (201, "ada", "operator")
    me = client.get(f"{API}/whoami", headers={"authorization": f"Bearer {done.json()['access_token']}"})
    assert me.json()["account"] == "ada"
    assert finish(client, answer).status_code == 401
    client.post(f"{API}/accounts", json={"name": "eve"}).raise_for_status()
    taken = client.put(f"{API}/accounts/eve/identity", json={"subject": provider.person})
    assert taken.status_code == 409
    client.delete(f"{API}/accounts/ada/identity", params={"subject": provider.person}).raise_for_status()
    assert finish(client, come_back(client)).status_code == 401


def test_a_wrong_answer_or_token_opens_nothing(client: TestClient, provider: OidcProvider) -> None:
    link(client, provider.person)
    now = int(time.time())
    wrong_tokens: dict[str, dict[str, Any]] = {
        "issuer": {"iss": "https://other.example"},
        "audience": {"aud": "another-client"},
        "party": {"aud": [CLIENT, "another-client"], "azp": "another-client"},
        "no party": {"aud": [CLIENT, "another-client"]},
        "nonce": {"nonce": "of another login"},
        "expired": {"exp": now - 120},
        "of the future": {"iat": now + 600},
        "subject": {"sub": ""},
        "no subject": {"sub": None},
    }
    for name, claims in wrong_tokens.items():
        provider.claims = claims
        assert finish(client, come_back(client)).status_code == 401, name
    provider.claims = {}
    for changes in ({"code": "guessed"}, {"state": "guessed"}, {"iss": "https://other.example"}):
        assert finish(client, come_back(client, **changes)).status_code == 401, changes
    for uri in (
        "https://evil.example/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://[::1/callback",
    ):
        assert client.post(f"{API}/oidc/start", json={"redirect_uri": uri}).status_code == 422, uri
    first, second = come_back(client), come_back(client)  # a code that somebody else's login gave
    assert finish(client, {**first, "code": second["code"]}).status_code == 401
    assert finish(client, come_back(client)).status_code == 201


def begin_in_console(client: TestClient, uri: str = f"{ORIGIN}/x/console/signed-in") -> Response:
    return client.post(f"{API}/browser/sso", json={"redirect_uri": uri}, headers={"origin": ORIGIN, **OURS})


def finish_in_console(client: TestClient, answer: dict[str, str]) -> Response:
    return client.post(f"{API}/browser/sso/session", json=answer, headers=OURS)


def back_in_console(client: TestClient) -> dict[str, str]:
    """What the browser brings back to the console's page."""
    begun = begin_in_console(client)
    assert begun.status_code == 201, begun.text
    assert {"HttpOnly", "SameSite=strict", "Max-Age=600"} <= set(begun.headers["set-cookie"].split("; "))
    went = urlsplit(httpx.get(begun.json()["url"]).headers["location"])
    assert went.path == "/x/console/signed-in"
    return {name: values[0] for name, values in parse_qs(went.query).items()}


def test_a_browser_logs_in_once_and_only_with_what_it_began_itself(
    client: TestClient, provider: OidcProvider
) -> None:
    link(client, provider.person)
    del client.headers["authorization"]
    offered = client.get(f"{API}/browser/sso").json()
    assert offered == {"provider": urlsplit(provider.issuer).netloc}
    strangers = back_in_console(client)
    client.cookies.clear()  # a link of somebody else's login
    assert finish_in_console(client, strangers).status_code == 401
    answer = back_in_console(client)
    assert finish(client, answer).status_code == 401  # no tokens for a script
    answer = back_in_console(client)
    assert client.post(f"{API}/browser/sso/session", json=answer).status_code == 403
    done = finish_in_console(client, answer)
    assert (done.status_code, done.json()["account"]) == (201, "ada"), done.text
    assert "access_token" not in done.text
    assert client.get(f"{API}/access").json()["account"] == "ada"
    assert finish_in_console(client, answer).status_code == 401
    assert client.delete(f"{API}/browser/session", headers=OURS).status_code == 200
    assert client.get(f"{API}/access").status_code == 401


def test_a_browser_comes_back_to_the_console_alone(client: TestClient) -> None:
    for uri in (
        BACK,
        "https://evil.example/console/signed-in",
        "http://service.example/console/signed-in",
        f"{ORIGIN}/console/signed-in?next=1",
        f"{ORIGIN}/console/other",
        "http://[::1/console/signed-in",
    ):
        assert begin_in_console(client, uri).status_code == 422, uri
    command = client.post(f"{API}/oidc/start", json={"redirect_uri": f"{ORIGIN}/console/signed-in"})
    assert command.status_code == 422


def test_rotated_keys_are_fetched_and_forged_ones_do_not_make_us_ask_again_and_again(
    client: TestClient, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(client, provider.person)
    for _ in range(3):
        assert finish(client, come_back(client)).status_code == 201
    assert provider.jwks_reads == 1
    monkeypatch.setattr(oidc, "REFETCH_S", 0.0)
    provider.rotate()
    assert finish(client, come_back(client)).status_code == 201
    assert provider.jwks_reads == 2
    monkeypatch.setattr(oidc, "REFETCH_S", 60.0)
    known = oidc.provider_of(oidc.OidcConfig(issuer=provider.issuer, client_id=CLIENT, client_secret=SECRET))
    claims: dict[str, Any] = {"iss": provider.issuer, "sub": provider.person, "aud": CLIENT, "nonce": "n"}
    claims |= {"iat": int(time.time()), "exp": int(time.time()) + 60}
    forged = [
        jwt.encode(claims, OidcProvider().keys.popitem()[1], algorithm="RS256", headers={"kid": "unknown"}),
        jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": next(iter(provider.keys))}),
        jwt.encode(claims, "", algorithm="none", headers={"kid": next(iter(provider.keys))}),
        "no.token",
    ]
    for token in forged:
        with pytest.raises(NotLoggedIn):
            known.verified(token, "n")
    assert provider.jwks_reads == 2


def test_the_command_logs_in_through_a_browser_and_a_first_login_makes_the_account(
    client: TestClient,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = client.app.state.parts.settings.model_copy(update={"oidc_create_role": Role.VIEWER})  # type: ignore[attr-defined]
    app = app_of(Parts(settings=made, database=world.database))
    monkeypatch.setenv("RAYMILL_HOME", str(tmp_path / "client"))

    def browser(url: str) -> bool:
        went = httpx.get(url)
        threading.Thread(target=httpx.get, args=(went.headers["location"],)).start()
        return True

    monkeypatch.setattr("webbrowser.open", browser)
    with listening(app) as url:
        monkeypatch.setenv("RAYMILL_URL", url)
        assert run(["login", "--sso"]) == 0
        assert run(["whoami"]) == 0
    assert "sso-" in capsys.readouterr().out
    assert client.post(f"{API}/oidc/start", json={"redirect_uri": BACK}).status_code == 201


def test_without_a_provider_the_cure_is_named(client: TestClient, world: World) -> None:
    app_of(Parts(settings=Settings(home=world.home), database=world.database))
    assert client.get(f"{API}/browser/sso").json() == {"provider": None}
    refused = client.post(f"{API}/oidc/start", json={"redirect_uri": BACK})
    assert (refused.status_code, "RAYMILL_OIDC_ISSUER" in refused.text) == (409, True)
