"""A checkpoint is read as it was written, or not at all."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from fedunlearn.errors import UserError
from fedunlearn.results.checkpoints import FOLDER, Checkpoints, holds_work

IDENTITY = {"settings": "s" * 64, "code": "c" * 64}
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def value_of(number: int) -> dict:
    return {
        "number": number,
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3) + number,
        "alive": np.array([True, False]),
        "empty": np.zeros((0, 4)),
        "order": {"z": 1, "a": (0.1, None)},
    }


def assert_value(found: dict, number: int) -> None:
    wanted = value_of(number)
    assert list(found) == list(wanted) and found["order"] == wanted["order"] and found["number"] == number
    assert list(found["order"]) == ["z", "a"]
    for name in ("rows", "alive", "empty"):
        assert found[name].dtype == wanted[name].dtype and found[name].shape == wanted[name].shape
        np.testing.assert_array_equal(found[name], wanted[name])


def files(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.glob("checkpoint-*"))


def test_the_newest_comes_back_and_the_two_newest_are_kept(tmp_path):
    checkpoints = Checkpoints.open(tmp_path, IDENTITY)
    assert checkpoints.newest(()) is None and not holds_work(tmp_path)
    for number in range(1, 5):
        checkpoints.write(value_of(number), f"after {number}")
        kept = Checkpoints.open(tmp_path, IDENTITY).newest(())
        assert kept.number == number and kept.what == f"after {number}"
        assert_value(kept.value, number)
    assert files(checkpoints) == ["checkpoint-000003.safetensors", "checkpoint-000004.safetensors"]
    checkpoints.write(value_of(5), "after 5", alone=True)
    assert files(checkpoints) == ["checkpoint-000005.safetensors"] and holds_work(tmp_path)
    checkpoints.remove()
    assert not checkpoints.folder.exists() and not holds_work(tmp_path)


def test_the_size_is_that_of_the_file_and_safetensors_reads_it(tmp_path):
    checkpoints = Checkpoints.open(tmp_path, IDENTITY)
    size = checkpoints.write(value_of(1), "one")
    path = checkpoints.folder / files(checkpoints)[0]
    assert path.stat().st_size == size
    arrays = load_file(path)
    assert {a.shape for a in arrays.values()} >= {(2, 3), (2,), (0, 4)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of a run with two checkpoints."""
    run = tmp_path_factory.mktemp("two")
    checkpoints = Checkpoints.open(run, IDENTITY)
    checkpoints.write(value_of(1), "one")
    checkpoints.write(value_of(2), "two")
    return run


def spoilt(two, tmp_path, change):
    """Return the checkpoints of a copy whose newest file is changed."""
    run = tmp_path / "copy"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(two, run)
    path = run / FOLDER / "checkpoint-000002.safetensors"
    path.write_bytes(change(path.read_bytes()))
    return Checkpoints.open(run, IDENTITY)


@FEW
@given(data=st.data())
def test_a_file_that_is_cut_off_is_named_and_the_one_before_is_used(two, tmp_path, data):
    def cut(content):
        return content[: data.draw(st.integers(0, len(content) - 1))]

    checkpoints = spoilt(two, tmp_path, cut)
    kept = checkpoints.newest(())
    assert_value(kept.value, 1)
    assert len(checkpoints.damaged) == 1 and "checkpoint-000002" in checkpoints.damaged[0]


@FEW
@given(data=st.data())
def test_a_file_with_a_flipped_bit_is_never_half_read(two, tmp_path, data):
    def flip(content):
        spoilt = bytearray(content)
        for place in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3, unique=True)):
            spoilt[place // 8] ^= 1 << place % 8
        return bytes(spoilt)

    checkpoints = spoilt(two, tmp_path, flip)
    kept = checkpoints.newest(())
    assert_value(kept.value, kept.number)  # padding of the header may differ: then it is the second, and whole
    assert (kept.number == 2) == (not checkpoints.damaged)


@FEW
@given(content=st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda b: (8).to_bytes(8, "little") + b)))
def test_any_other_content_is_named(two, tmp_path, content):
    checkpoints = spoilt(two, tmp_path, lambda _: content)
    assert_value(checkpoints.newest(()).value, 1)
    assert len(checkpoints.damaged) == 1


def test_a_file_under_the_name_of_another_is_not_used(two, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(two, run)
    os.replace(run / FOLDER / "checkpoint-000001.safetensors", run / FOLDER / "checkpoint-000003.safetensors")
    checkpoints = Checkpoints.open(run, IDENTITY)
    assert_value(checkpoints.newest(()).value, 2)
    assert "checkpoint-000003" in checkpoints.damaged[0] and "another checkpoint" in checkpoints.damaged[0]


def test_a_file_of_another_run_is_not_used_even_if_it_has_the_same_settings(two, tmp_path):
    other = Checkpoints.open(tmp_path, IDENTITY)
    other.write(value_of(9), "nine")
    shutil.copy(two / FOLDER / "checkpoint-000002.safetensors", other.folder)
    assert_value(other.newest(()).value, 9)
    assert "belongs to another run" in other.damaged[0]
    other.clear()
    shutil.copy(two / FOLDER / "checkpoint-000002.safetensors", other.folder)
    assert other.newest(()) is None


@pytest.mark.parametrize("key", IDENTITY)
def test_a_run_of_other_code_or_settings_is_refused(two, key):
    with pytest.raises(UserError, match=f"its {key} is not what it was when it began"):
        Checkpoints.open(two, {**IDENTITY, key: "other"})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"run": 3}'])
def test_a_run_whose_identity_cannot_be_read_is_refused(two, tmp_path, content):
    run = tmp_path / "copy"
    shutil.copytree(two, run)
    (run / FOLDER / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json"):
        Checkpoints.open(run, IDENTITY)
    (run / FOLDER / "run.json").unlink()
    with pytest.raises(UserError, match="is gone"):
        Checkpoints.open(run, IDENTITY)


def test_what_cannot_be_written_leaves_the_others_whole(two, tmp_path, monkeypatch):
    run = tmp_path / "copy"
    shutil.copytree(two, run)
    checkpoints = Checkpoints.open(run, IDENTITY)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            checkpoints.write(value_of(3), "three")
    assert files(checkpoints) == ["checkpoint-000001.safetensors", "checkpoint-000002.safetensors"]
    assert not list(checkpoints.folder.glob(".*"))
    assert_value(checkpoints.newest(()).value, 2)


def test_leftovers_of_a_writer_that_was_stopped_are_deleted(two, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(two, run)
    (run / FOLDER / ".checkpoint-000003.safetensors.abcd").write_bytes(b"half")
    checkpoints = Checkpoints.open(run, IDENTITY)
    assert not list(checkpoints.folder.glob(".*"))
    assert_value(checkpoints.newest(()).value, 2)


def test_what_was_drawn_comes_back_under_its_key_alone(tmp_path):
    checkpoints = Checkpoints.open(tmp_path, IDENTITY)
    vector = np.linspace(0, 1, 5, dtype=np.float32)
    assert checkpoints.drawn("main 0 release") is None
    checkpoints.draw("main 0 release", vector)
    again = Checkpoints.open(tmp_path, IDENTITY)
    np.testing.assert_array_equal(again.drawn("main 0 release"), vector)
    assert again.drawn("main 1 release") is None and holds_work(tmp_path)
    again.write(value_of(1), "one", alone=True)
    again.clear()
    assert again.drawn("main 0 release") is not None  # it outlives every checkpoint
    os.replace(again._drawn("main 0 release"), again._drawn("main 1 release"))
    with pytest.raises(UserError, match="noise is not drawn twice"):
        again.drawn("main 1 release")
