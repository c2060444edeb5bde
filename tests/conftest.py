"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code: speed is measured in benchmarks/.
settings.register_profile("fedunlearn", deadline=None)
settings.load_profile("fedunlearn")

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def femnist_npz() -> Path:
    """Path of the real FEMNIST file, or a skip that says how to provide it."""
    folder = os.environ.get("FEDUNLEARN_DATA")
    path = Path(folder) / "femnist.npz" if folder else None
    if path is None or not path.is_file():
        pytest.skip("set FEDUNLEARN_DATA to a folder that holds femnist.npz")
    return path


@pytest.fixture(scope="session", autouse=True)
def _cache_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the content cache of whatever outlives a test away from the user's."""
    os.environ["FEDUNLEARN_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test an empty content cache: no test finds what another one trained."""
    monkeypatch.setenv("FEDUNLEARN_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{secrets.token_hex(8)}"))


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts how many vectors of secret noise were drawn."""
    from fedunlearn.privacy import noise as noise_module

    original, count = noise_module._system_normals, Counter[str]()

    def normals(dim: int) -> object:
        count["draws"] += 1
        return original(dim)

    monkeypatch.setattr(noise_module, "_system_normals", normals)
    return count
