"""A small OpenID provider for tests: discovery, authorization endpoint, token endpoint, keys that rotate.

It holds clients to the standard: exact redirect URI, PKCE with S256, a code that works once, the client's secret. Whoever comes to
its authorization endpoint is `person`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from typing import Annotated, Any
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI, Form, Header, Response
from fastapi.responses import JSONResponse, RedirectResponse

CLIENT = "raymill-tests"
SECRET = "of the client"


class OidcProvider:
    """Its state. `claims` are put over those of every ID token, to make wrong ones."""

    def __init__(self) -> None:
        self.issuer = ""
        self.person = "subject-1"
        self.claims: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.jwks_reads = 0
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key; the old one is no longer published."""
        self.keys = {secrets.token_hex(4): rsa.generate_private_key(public_exponent=65537, key_size=2048)}

    def id_token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.person,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.claims,
        }
        ((key_id, key),) = self.keys.items()
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": key_id})

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def discovery() -> dict[str, str]:
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
            }

        @app.get("/jwks")
        def jwks() -> dict[str, Any]:
            self.jwks_reads += 1
            of = jwt.algorithms.RSAAlgorithm.to_jwk
            return {
                "keys": [
                    {**of(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", "alg": "RS256"}
                    for key_id, key in self.keys.items()
                ]
            }

        @app.get("/authorize")
        def authorize(
            response_type: str,
            client_id: str,
            redirect_uri: str,
            scope: str,
            state: str,
            nonce: str,
            code_challenge: str,
            code_challenge_method: str,
        ) -> Response:
            assert (response_type, client_id, code_challenge_method) == ("code", CLIENT, "S256")
            assert "openid" in scope.split()
            code = secrets.token_urlsafe(16)
            asked = {"redirect_uri": redirect_uri, "nonce": nonce, "challenge": code_challenge}
            self.codes[code] = asked
            answer = urlencode({"code": code, "state": state, "iss": self.issuer})
            return RedirectResponse(f"{redirect_uri}?{answer}", status_code=302)

        @app.post("/token")
        def token(
            grant_type: Annotated[str, Form()],
            code: Annotated[str, Form()],
            redirect_uri: Annotated[str, Form()],
            code_verifier: Annotated[str, Form()],
            authorization: Annotated[str, Header()],
        ) -> Response:
            asked = self.codes.pop(code, None)
            digest = hashlib.sha256(code_verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
            if (
                asked is None
                or grant_type != "authorization_code"
                or (asked["redirect_uri"], asked["challenge"]) != (redirect_uri, challenge)
                or authorization != f"Basic {basic}"
            ):
                return JSONResponse({"error": "invalid_grant"}, status_code=400)
            return JSONResponse(
                {"access_token": "a", "token_type": "Bearer", "id_token": self.id_token(asked)}
            )

        return app
