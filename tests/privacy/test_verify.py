"""Verification finds every changed entry, and every file that is not the one the certificate was made for."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedunlearn.errors import UserError
from fedunlearn.privacy import RunFacts, calibrate, certify, code_sha256, file_sha256, verify, write_certificates
from fedunlearn.privacy.certificate import digest

Maker = Callable[..., RunFacts]
MODEL = "models/released.safetensors"


@pytest.fixture
def run(tmp_path: Path, good_facts: Maker, good_hashes: dict[str, str]) -> Path:
    """A run directory with settings, a released model and a certificate."""
    (tmp_path / "models").mkdir()
    (tmp_path / MODEL).write_bytes(b"weights")
    (tmp_path / "settings.toml").write_text("seed = 0\n")
    hashes = {**good_hashes, "settings.toml": file_sha256(tmp_path / "settings.toml"), "code": code_sha256()}
    hashes[MODEL] = file_sha256(tmp_path / MODEL)
    write_certificates(
        tmp_path / "certificate.json", [certify(good_facts(), 1.0, 1e-5, noise="simulated", hashes=hashes)]
    )
    return tmp_path / "certificate.json"


def rewrite(path: Path, change: Callable[[dict[str, Any]], None], *, forge_digest: bool) -> None:
    content = json.loads(path.read_text())
    entry = content["certificates"][0]
    change(entry)
    if forge_digest:
        entry["sha256"] = digest(entry)
    path.write_text(json.dumps(content))


def entries(plain: dict[str, Any], prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every leaf of a nested table."""
    paths = []
    for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
        if isinstance(value, (dict, list)):
            paths += entries(value, (*prefix, key))
        else:
            paths.append((*prefix, key))
    return paths


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 1.001 + 1e-9
    return "changed"


def put(plain: Any, where: tuple[Any, ...]) -> None:
    for key in where[:-1]:
        plain = plain[key]
    plain[where[-1]] = changed(plain[where[-1]])


def test_honest_run(run: Path) -> None:
    report = verify(run)
    assert report.ok, report.text()
    assert not report.failures and not report.notes
    assert report.text().endswith("verified: everything agrees")
    whats = {check.what for check in report.checks}
    assert {f"hash of {MODEL}", "hash of settings.toml", "valid, from the premises", "premise 'tolerance'"} <= whats
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_every_tampered_entry_is_found(run: Path) -> None:
    original = json.loads(run.read_text())
    for where in entries(original["certificates"][0]):
        content = copy.deepcopy(original)
        put(content["certificates"][0], where)
        run.write_text(json.dumps(content))
        assert not verify(run).ok, where


def test_forged_digests_do_not_help(run: Path) -> None:
    """A forger who also recomputes the digest is found wherever an entry follows from others or from a file."""
    original = json.loads(run.read_text())
    free = {
        # Weaker claims from the same facts are true claims.
        ("epsilon",),
        ("delta",),
        # Nothing in the run directory holds what these hash.
        ("hashes", "extractor"),
        ("hashes", "extractor_training_rows"),
        ("hashes", "code"),
        # Facts that play no part where one vector is released by an all-reduce.
        ("facts", "consensus_bound"),
        ("facts", "consensus_residual"),
    }
    missed = set()
    for where in entries(original["certificates"][0]):
        content = copy.deepcopy(original)
        put(content["certificates"][0], where)
        entry = content["certificates"][0]
        if where != ("sha256",):
            entry["sha256"] = digest(entry)
        run.write_text(json.dumps(content))
        if verify(run).ok:
            missed.add(where)
    assert missed == free


@pytest.mark.parametrize(("key", "value"), [("epsilon", 0.5), ("delta", 1e-6), ("mu", 0.1), ("sigma", 0.02)])
def test_stronger_claims_are_found(run: Path, key: str, value: float) -> None:
    rewrite(run, lambda entry: entry.update({key: value}), forge_digest=True)
    assert verify(run).failures


def test_consistently_smaller_sigma_is_found(run: Path) -> None:
    def shrink(entry: dict[str, Any]) -> None:
        entry["sigma"] /= 2
        entry["mu"] *= 2
        entry["facts"]["sigma_drawn"] /= 2

    rewrite(run, shrink, forge_digest=True)
    failures = {check.what for check in verify(run).failures}
    assert "delta at epsilon = 1" in failures
    assert "sigma, at least what the sensitivity needs" in failures
    assert "the claim, from the facts of the run" in failures


def test_unmet_tolerance_is_found(run: Path) -> None:
    rewrite(run, lambda entry: entry["facts"].update(gradient_norm=1.0), forge_digest=True)
    (failure,) = verify(run).failures
    assert "stopping rule was not met" in failure.recomputed


@pytest.mark.parametrize("key", ["premises", "scope", "limits", "constants"])
def test_dropped_entries_are_found(run: Path, key: str) -> None:
    def drop(entry: dict[str, Any]) -> None:
        if isinstance(entry[key], list):
            entry[key].pop()
        else:
            entry[key].popitem()

    rewrite(run, drop, forge_digest=True)
    assert not verify(run).ok


def test_upgraded_status_is_found(tmp_path: Path, good_facts: Maker) -> None:
    path = tmp_path / "certificate.json"
    write_certificates(path, [certify(good_facts(state_erased=False), 1.0, 1e-5, noise="simulated")])

    def upgrade(entry: dict[str, Any]) -> None:
        for premise in entry["premises"]:
            premise["status"] = "enforced"
        entry["valid"] = True

    rewrite(path, upgrade, forge_digest=True)
    assert "premise 'state erased'" in {check.what for check in verify(path).failures}


def test_other_files_are_found(run: Path) -> None:
    (run.parent / MODEL).write_bytes(b"other weights")
    (run.parent / "settings.toml").unlink()
    failures = {check.what: check.recomputed for check in verify(run).failures}
    assert failures[f"hash of {MODEL}"] == hashlib.sha256(b"other weights").hexdigest()
    assert failures["hash of settings.toml"] == "cannot be read: No such file or directory"


@pytest.mark.parametrize("key", ["../outside.toml", "/etc/host.conf"])
def test_files_outside_the_run_are_not_read(run: Path, key: str) -> None:
    rewrite(run, lambda entry: entry["hashes"].update({key: "0"}), forge_digest=True)
    assert [check.recomputed for check in verify(run).failures] == ["not a file of this run"]


def test_invalid_but_honest_certificate_is_verified(run: Path, good_facts: Maker) -> None:
    hashes = {MODEL: file_sha256(run.parent / MODEL)}
    write_certificates(run, [certify(good_facts(), 1.0, 1e-5, noise="simulated", hashes=hashes)])
    report = verify(run)
    assert report.ok
    assert report.notes == ("certificate 0 says of itself that it is not valid: see its premises",)


def test_release_from_secret_starts_is_verified(run: Path, good_facts: Maker) -> None:
    plan = calibrate(3.0, 1e-6, 1e-4, tau=1e-7, releases=5)
    facts = good_facts(start="secret", releases=5, sigma_drawn=plan.sigma, tau=1e-7, gradient_norm=1e-8)
    hashes = {MODEL: file_sha256(run.parent / MODEL)}
    write_certificates(run, [certify(facts, 3.0, 1e-6, noise="secret", hashes=hashes)])
    assert verify(run).ok


def test_other_code_is_a_remark(run: Path) -> None:
    rewrite(run, lambda entry: entry["hashes"].update(code="0"), forge_digest=True)
    report = verify(run)
    assert report.ok
    assert report.notes == ("certificate 0 was issued by other source code than the installed one",)


def test_a_certificate_that_is_listed_twice_is_found(run: Path) -> None:
    content = json.loads(run.read_text())
    run.write_text(json.dumps({**content, "certificates": 2 * content["certificates"]}))
    (failure,) = verify(run).failures
    assert (failure.certificate, failure.what, failure.recomputed) == (1, "listed once", "a copy of 0")


def test_malformed_entry_fails_without_a_traceback(run: Path) -> None:
    rewrite(run, lambda entry: entry.pop("facts"), forge_digest=True)
    (failure,) = verify(run).failures
    assert "no entry 'facts'" in failure.recomputed
    for value in ("x", None, -1, [1]):
        rewrite_to = json.loads(run.read_text())
        rewrite_to["certificates"][0]["facts"] = {"rule": "tolerance", "lam": value}
        run.write_text(json.dumps(rewrite_to))
        assert not verify(run).ok


@pytest.mark.parametrize("value", ["x", None, [1], {}, -1, 0, 1e400])
@pytest.mark.parametrize("key", ["epsilon", "delta", "sigma", "mu", "sensitivity", "hashes", "premises"])
def test_nonsense_is_found(run: Path, key: str, value: Any) -> None:
    rewrite(run, lambda entry: entry.update({key: value}), forge_digest=True)
    assert not verify(run).ok


@pytest.mark.parametrize("value", ["x", None, [1], 1e400, -1])
@pytest.mark.parametrize("key", ["lam", "tau", "dim", "nodes", "releases", "sigma_drawn", "gradient_norm"])
def test_nonsense_facts_are_found(run: Path, key: str, value: Any) -> None:
    rewrite(run, lambda entry: entry["facts"].update({key: value}), forge_digest=True)
    assert not verify(run).ok


def test_empty_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    write_certificates(path, [])
    assert verify(path).notes == ("the file holds no certificate",)
    with pytest.raises(UserError, match="cannot be read"):
        verify(tmp_path / "none.json")
