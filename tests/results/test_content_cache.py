"""The cache gives back what was put in, or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.results import ContentCache, content_key
from fedunlearn.results.cache import default_folder

ARRAYS = {
    "theta": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "sums": np.array([1e-300, 1.0]),
    "ids": np.arange(5),
    "flags": np.array([True, False]),
    "image": np.zeros((2, 0), dtype=np.uint8),
}
INFO = {"clients": {"3": "ab"}, "rounds": 40, "note": "é"}


@pytest.fixture
def cache(tmp_path):
    return ContentCache(tmp_path / "cache")


def test_an_entry_reads_back_exactly(cache):
    key = content_key(INFO)
    assert cache.get(key) is None
    assert cache.put(key, ARRAYS, INFO)
    entry = cache.get(key)
    assert entry is not None and entry.info == INFO and set(entry.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert entry.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(entry.arrays[name], array)


def test_any_flipped_bit_makes_it_no_entry(cache):
    cache.put("k", {"theta": np.arange(6, dtype=np.float32)}, {"a": 1})
    path = cache.folder / "k.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        entry = cache.get("k")
        # spaces that pad the header are the only bytes that mean nothing
        assert entry is None or whole[place : place + 1] == b" "
    path.write_bytes(whole[:-5])
    assert cache.get("k") is None
    assert cache.get_or_build("k", lambda: {"theta": np.ones(2)}).arrays["theta"].tolist() == [1, 1]
    assert cache.get("k").arrays["theta"].tolist() == [1, 1]


def test_an_entry_under_a_wrong_name_is_none(cache):
    cache.put("a", {"x": np.zeros(1)})
    (cache.folder / "a.safetensors").rename(cache.folder / "b.safetensors")
    assert cache.get("b") is None


def test_building_happens_once(cache):
    built = []

    def build():
        built.append(1)
        return {"x": np.full(3, 7.0)}

    first, second = cache.get_or_build("k", build, INFO), cache.get_or_build("k", build, INFO)
    assert len(built) == 1 and first.info == second.info == INFO
    np.testing.assert_array_equal(first.arrays["x"], second.arrays["x"])


def test_entries_can_be_listed_and_removed(cache):
    assert list(cache.entries()) == []
    for name in ("b", "a"):
        cache.put(name, {"x": np.zeros(1)}, {"name": name})
    (cache.folder / "c.safetensors").write_bytes(b"junk")
    assert list(cache.entries()) == [("a", {"name": "a"}), ("b", {"name": "b"})]
    assert cache.remove("a") and not cache.remove("a")
    assert [key for key, _ in cache.entries()] == ["b"]


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ContentCache(tmp_path / "file" / "cache")
    assert not cache.put("k", {"x": np.zeros(1)})
    assert cache.get_or_build("k", lambda: {"x": np.ones(1)}).arrays["x"][0] == 1


def test_nothing_is_left_beside_the_entries(cache):
    cache.put("k", ARRAYS)
    cache.put("k", ARRAYS)
    assert [path.name for path in cache.folder.iterdir()] == ["k.safetensors"]


def test_the_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDUNLEARN_CACHE", str(tmp_path / "here"))
    assert default_folder() == ContentCache().folder == tmp_path / "here"
    monkeypatch.delenv("FEDUNLEARN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "fedunlearn"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def typed(value):
    """Tell 1 from True, which Python thinks equal."""
    if isinstance(value, dict):
        return {key: typed(entry) for key, entry in value.items()}
    return [typed(entry) for entry in value] if isinstance(value, list) else (type(value).__name__, value)


@given(json_values, json_values)
def test_keys_are_equal_exactly_when_values_are(a, b):
    assert (content_key(a) == content_key(b)) == (typed(a) == typed(b))


def test_a_key_is_no_path(cache):
    for key in ("../k", "", "a/b", "."):
        with pytest.raises(ValueError, match="is not a key"):
            cache.get(key)
