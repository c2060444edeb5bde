"""Certificates as values, as text and as a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import Certificate, Premise, RunFacts, certify, read_certificates, write_certificates

Maker = Callable[..., RunFacts]


@pytest.fixture
def certificate(good_facts: Maker, good_hashes: dict[str, str]) -> Certificate:
    return certify(good_facts(), 1.0, 1e-5, noise="simulated", hashes=good_hashes)


def test_valid_needs_every_premise(certificate: Certificate) -> None:
    assert certificate.valid
    for status in ("measured", "assumed"):
        premises = (*certificate.premises[:-1], Premise("last", status, "seen"))
        assert not dataclasses.replace(certificate, premises=premises).valid
    assert not dataclasses.replace(certificate, premises=()).valid


def test_file_round_trip(certificate: Certificate, good_facts: Maker, tmp_path: Path) -> None:
    other = certify(good_facts(rounding_bound=None, start="public"), 1.0, 1e-5, noise="secret")
    path = tmp_path / "certificate.json"
    write_certificates(path, [certificate, other])
    assert read_certificates(path) == [certificate, other]
    content = json.loads(path.read_text())
    assert content["schema"] == "fedunlearn/certificates/2"
    assert [entry["valid"] for entry in content["certificates"]] == [True, False]
    assert list(tmp_path.iterdir()) == [path]
    write_certificates(path, [])
    assert read_certificates(path) == []


def test_dict_is_plain_json(certificate: Certificate) -> None:
    plain = certificate.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert Certificate.from_dict(plain) == certificate
    later = certificate.with_hashes({"models/released.safetensors": "d" * 64})
    assert later.to_dict()["sha256"] != plain["sha256"]
    assert later.hashes["settings.toml"] == certificate.hashes["settings.toml"]


def test_curve_passes_the_claim(certificate: Certificate) -> None:
    points = dict(certificate.curve())
    assert points[1.0] == pytest.approx(1e-5)
    assert min(points) < 0.1 and max(points) > 3
    assert certificate.curve(deltas=[1e-5])[0][0] == pytest.approx(1)


def test_text_says_everything(certificate: Certificate) -> None:
    words = " ".join(certificate.text().split())
    for part in (
        *certificate.scope,
        *certificate.limits,
        certificate.claim,
        certificate.theorem,
        certificate.view_reason,
    ):
        assert part in words
    for premise in certificate.premises:
        assert f"[{premise.status}] {premise.name}: {premise.detail}" in words
    assert "VALID" in words and "NOT VALID" not in words
    assert max(map(len, certificate.text().splitlines())) <= 100


def test_text_says_what_carries_the_noise(certificate: Certificate) -> None:
    assert f"sigma = {certificate.sigma:.6g} on every parameter" in " ".join(certificate.text().split())
    private = dataclasses.replace(certificate, kind="differential-privacy", mu=None)
    words = " ".join(private.text().split())
    assert "in every step of training, sensitivity" in words and "on every parameter, sensitivity" not in words


def test_text_of_an_invalid_one(good_facts: Maker) -> None:
    text = certify(good_facts(start="secret"), 1.0, 1e-5, noise="simulated").text()
    assert "NOT VALID" in text
    assert "Those who watch the messages: no certificate" in text


def test_malformed_entries(certificate: Certificate, tmp_path: Path) -> None:
    plain = certificate.to_dict()
    cases = [
        ({k: v for k, v in plain.items() if k != "sigma"}, "no entry 'sigma'"),
        ({**plain, "sigmma": 1}, "entry 'sigmma'"),
        ({**plain, "sigma": "0.05"}, "sigma = '0.05' is not allowed.*a number"),
        ({**plain, "sigma": True}, "sigma = True"),
        ({**plain, "noise": "none"}, "noise = 'none'"),
        ({**plain, "scope": "all"}, "scope = 'all'"),
        ({**plain, "constants": {"tau": None}}, "constants.tau = None"),
        ({**plain, "hashes": {"a": 1}}, "hashes"),
        ({**plain, "premises": [{"name": "x"}]}, "a name, a status and a detail"),
        ({**plain, "premises": [{"name": "x", "status": "proved", "detail": ""}]}, "status = 'proved'"),
    ]
    for entry, message in cases:
        with pytest.raises(UserError, match=message):
            Certificate.from_dict(entry)
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps({"schema": "fedunlearn/certificates/2", "certificates": [plain, cases[0][0]]}))
    with pytest.raises(UserError, match=r"certificate.json: certificates.1: .*'sigma'"):
        read_certificates(path)


def test_bad_files(certificate: Certificate, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_certificates(path)
    for content, message in (
        ("{", "is not a JSON file"),
        ("[]", "schema = None"),
        ('{"schema": "fedunlearn/certificates/9"}', "certificates/9"),
        ('{"schema": "fedunlearn/certificates/2"}', "not a list of tables"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_certificates(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not a JSON file"):
        read_certificates(path)
    with pytest.raises(UserError, match="cannot be written"):
        write_certificates(tmp_path / "missing" / "certificate.json", [certificate])
