"""The papers of a deployment are what TLS and Flower ask for."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedunlearn.flower.certificates import Papers, write_papers


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return write_papers(tmp_path_factory.mktemp("keys") / "new", ["127.0.0.1", "localhost", "link.example.org"], 2)


def connect(papers: Papers, authority: Path, name: str) -> str:
    """Make a TLS connection to a server with the SuperLink's certificate; returns who the client takes it for."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(papers.certificate, papers.key)
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True):
                pass
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secure:
            return str(secure.getpeercert()["subject"])  # type: ignore[index]
    finally:
        ours.close()
        thread.join(timeout=10)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "link.example.org"])
def test_a_client_that_knows_the_authority_trusts_the_superlink(papers: Papers, name: str) -> None:
    assert "SuperLink" in connect(papers, papers.authority, name)


def test_another_name_and_another_authority_are_refused(papers: Papers, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(papers, papers.authority, "other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(papers, write_papers(tmp_path / "other", ["127.0.0.1"], 0).authority, "127.0.0.1")


def test_supernode_keys_are_pairs_on_the_curve_that_flower_asks_for(papers: Papers) -> None:
    assert len(papers.supernodes) == 2
    for private, public in papers.supernodes:
        key = load_ssh_private_key(private.read_bytes(), None)
        other = load_ssh_public_key(public.read_bytes())
        assert isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1)
        assert key.public_key() == other
    assert len({public.read_bytes() for _, public in papers.supernodes}) == 2


def test_only_their_owner_reads_them(papers: Papers) -> None:
    folder = papers.key.parent
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o600"}
    assert not any(b"PRIVATE" in path.read_bytes() for path in folder.glob("authority*")), "its key is written nowhere"


def test_nothing_is_written_over(papers: Papers) -> None:
    with pytest.raises(FileExistsError):
        write_papers(papers.key.parent, ["127.0.0.1"], 1)
