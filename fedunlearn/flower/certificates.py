"""A throw-away certificate authority, a SuperLink's certificate, and SuperNodes' keys, for one deployment.

TLS lets SuperNodes and ``flwr`` know the SuperLink by the authority's certificate; a SuperNode is known by its own key.
The authority's private key is written nowhere, so nobody can make another certificate with it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID_BEFORE = timedelta(minutes=10)
"""Clocks of two machines may differ by so much."""


@dataclass(frozen=True)
class Papers:
    """The files of one deployment: the authority's certificate, the SuperLink's pair, and each SuperNode's pair."""

    authority: Path
    certificate: Path
    key: Path
    supernodes: tuple[tuple[Path, Path], ...]


def write_papers(folder: Path, addresses: Sequence[str], hosts: int, *, days: int = 30) -> Papers:
    """Write the papers of a SuperLink that is reached by ``addresses`` (names or IP addresses) and of its SuperNodes.

    Private keys are readable by their owner alone; SuperNode keys are on the curve P-384, as Flower asks.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = datetime.now(UTC) + timedelta(days=days)
    authority, link = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedunlearn throw-away authority")])
    root = (
        _certificate(name, name, authority.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_signs_certificates(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SuperLink")])
    server = (
        _certificate(subject, name, link.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(a) for a in addresses]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    papers = Papers(
        _write(folder / "authority.crt", root.public_bytes(Encoding.PEM)),
        _write(folder / "superlink.crt", server.public_bytes(Encoding.PEM)),
        _write(folder / "superlink.key", link.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        tuple(_supernode_keys(folder / f"host-{h}") for h in range(hosts)),
    )
    return papers


def _supernode_keys(path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return (
        _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())),
        _write(path.with_name(f"{path.name}.pub"), public),
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _VALID_BEFORE)
        .not_valid_after(until)
    )


def _signs_certificates() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _write(path: Path, content: bytes) -> Path:
    """Write a file that only its owner may read; it must not exist yet."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
    return path
