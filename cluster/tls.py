"""Certificates of this service: read, judged, made. Knows nothing of who listens with them.

Made are a certificate authority of one's own and a server's certificate by it (X.509 v3, ECDSA P-256), with the extensions
that strict verifiers ask for (RFC 5280; the key identifiers too). A service with a name of its own on the internet has better
ones by ACME.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raymill.policies.errors import Invalid
from raymill.registry.files import write_private

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
"""The longest that browsers take."""

BACKDATED = dt.timedelta(hours=1)
"""For clients whose clock is behind."""


class Made(NamedTuple):
    """Files of a certificate and its authority."""

    cert: Path
    key: Path
    authority: Path


def read_pair(cert: Path, key: Path) -> list[x509.Certificate]:
    """The certificates in `cert`, the server's first, once `key` is found to be its key.

    Raises:
        Invalid: a file cannot be read, holds something else, or the two do not belong together.
    """
    chain = read_certificates(cert)
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise Invalid(
            f"{key} holds no private key without a password ({error}): set RAYMILL_TLS_KEY"
        ) from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise Invalid(
            f"{key} is not the key of the first certificate in {cert}: give the two that were made together"
        )
    return chain


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Raises Invalid: there are none in the file."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{path} holds no certificate ({error}): it must be PEM, the server's own first"
        ) from error


def names_of(certificate: x509.Certificate) -> list[str]:
    """Names and addresses that a certificate is for; the common name does not count (RFC 9525)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(each) for each in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def covers(certificate: x509.Certificate, name: str) -> bool:
    """Whether a client that called the service `name` takes the certificate."""
    wanted, _, rest = name.lower().partition(".")
    return any(
        each.lower() == name.lower() or (each.lower() == f"*.{rest}" and wanted != "" and rest != "")
        for each in names_of(certificate)
    )


def make(folder: Path, names: Sequence[str], *, days: int = SERVER_DAYS) -> Made:
    """A server's certificate for `names` (host names and IP addresses), by the authority in `folder`.

    The authority is made when there is none. A service that listens with the old certificate takes the new one by itself.

    Raises:
        Invalid: a name is none, or what lies in the folder is no authority.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Made(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    authority_key = folder / "ca.key"
    if not authority_key.exists():
        _make_authority(made.authority, authority_key)
    issuer = read_pair(made.authority, authority_key)[0]
    signer = serialization.load_pem_private_key(authority_key.read_bytes(), password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]  # Ray's nodes are both to each other
    certificate = (
        _begun(names[0], issuer.subject, key, days)
        .add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    # The key first: who sees the one without the other finds that they do not match, and waits.
    write_private(made.key, _pem(key))
    _write_public(made.cert, certificate)
    return made


def _make_authority(cert: Path, key: Path) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Raymill's own authority")])
    certificate = (
        _begun("Raymill's own authority", subject, signer, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(signer, hashes.SHA256())
    )
    _write_public(cert, certificate)
    write_private(key, _pem(signer))


def _begun(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError as error:
        raise Invalid(
            f"{text!r} is no host name and no address: write it as clients call the service"
        ) from error


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    kept = serialization.PrivateFormat.PKCS8
    return key.private_bytes(Encoding.PEM, kept, serialization.NoEncryption()).decode().rstrip()


def _write_public(path: Path, certificate: x509.Certificate) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(certificate.public_bytes(Encoding.PEM))
    draft.chmod(0o644)
    draft.replace(path)
