"""Signs in HashiCorp Vault's transit engine: the private key never leaves it.

`vault.json` in the key folder says where: `{"address": "https://vault:8200", "mount": "transit", "key": "raymill",
"token_file": "/run/secrets/vault"}`. The key is of type `ed25519` or `ecdsa-p256`; each of its versions is a key of its own
here. HTTP as in Vault's API documentation, "Transit secrets engine".
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import SecretsHandler, Signature, Signer, SSlibKey

from raymill.policies.errors import Invalid, Unavailable

TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Vault:
    """One key of one transit engine."""

    address: str
    key: str
    token_file: str
    mount: str = "transit"

    @classmethod
    def read(cls, path: Path) -> Vault:
        """Raises Invalid."""
        try:
            return cls(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise Invalid(f"{path} is wrong ({error}): give address, key, token_file and mount") from error

    def newest(self) -> tuple[int, str]:
        """Number of the key's newest version, and its public half in PEM.

        Raises:
            Unavailable: Vault does not answer, or says no.
            Invalid: the key is of another type.
        """
        data = self.ask("GET", f"keys/{self.key}")
        number = int(data["latest_version"])
        public: str = data["keys"][str(number)]["public_key"]
        if data["type"] == "ed25519":
            raw = Ed25519PublicKey.from_public_bytes(base64.b64decode(public))
            public = raw.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        elif data["type"] != "ecdsa-p256":
            raise Invalid(
                f"Vault's key {self.key} is of type {data['type']}: make one of ed25519 or ecdsa-p256"
            )
        return number, public.strip()

    def rotate(self) -> None:
        self.ask("POST", f"keys/{self.key}/rotate")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The `data` of an answer."""
        url = f"{self.address.rstrip('/')}/v1/{self.mount}/{path}"
        try:
            token = Path(self.token_file).read_text().strip()
            answer = httpx.request(
                method, url, json=body, headers={"X-Vault-Token": token}, timeout=TIMEOUT_S
            )
            answer.raise_for_status()
            found = answer.json() if answer.content else {}
        except (OSError, ValueError, httpx.HTTPError) as error:
            raise Unavailable(
                f"Vault does not sign ({error}): see its log, and the token's policy"
            ) from error
        data: dict[str, Any] = found.get("data") or {}
        return data


class VaultSigner(Signer):  # type: ignore[misc]  # the package is untyped
    """Signs with one version of the key."""

    def __init__(self, vault: Vault, number: int, public_key: SSlibKey) -> None:
        self._vault = vault
        self._number = number
        self._public_key = public_key

    @property
    def public_key(self) -> SSlibKey:
        return self._public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: SSlibKey, secrets_handler: SecretsHandler | None = None
    ) -> VaultSigner:
        raise NotImplementedError("a signer is made by the key folder")

    def sign(self, payload: bytes) -> Signature:
        """Raises Unavailable."""
        body = {
            "input": base64.b64encode(payload).decode(),
            "key_version": self._number,
            "hash_algorithm": "sha2-256",  # of ECDSA; Ed25519 has its own
            "marshaling_algorithm": "asn1",
        }
        told: str = self._vault.ask("POST", f"sign/{self._vault.key}", body)["signature"]
        return Signature(self._public_key.keyid, base64.b64decode(told.rpartition(":")[2]).hex())
