"""Stores of dead processes go; those of the living, of other users and of SuperNodes that may come back stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedunlearn.errors import UserError
from fedunlearn.flower import places
from fedunlearn.flower.places import Owner, find_store, new_store, place_of, remove_stale, remove_store, store_root

SESSION = "0123456789abcdef" * 2


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which waits."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_a_store_of_a_killed_process_goes_when_the_next_is_made(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    folder = new_store(other.pid, root=tmp_path, session=SESSION, host=0)
    mine = new_store(os.getpid(), root=tmp_path, session=SESSION, host=1)
    assert folder.is_dir(), "its owner lives"
    end(other)
    third = new_store(os.getpid(), root=tmp_path, session=SESSION, host=2)
    assert not folder.exists() and mine.is_dir() and third.is_dir()


def test_the_default_place_is_swept_too(other: subprocess.Popen[bytes]) -> None:
    folder = new_store(other.pid)
    end(other)
    fresh = new_store(os.getpid())
    try:
        assert fresh.parent == folder.parent and not folder.exists()
        assert oct(fresh.stat().st_mode & 0o777) == "0o700"
    finally:
        places.Store(fresh).remove()


def test_what_a_store_has_on_disk_goes_with_it(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    (tmp_path / "disk").mkdir()
    folder = new_store(other.pid, root=tmp_path, session=SESSION, host=0)
    store = places.Store(folder)
    store.limit(0, str(tmp_path / "disk"))
    store.create("theta.main", (1 << 10, 1 << 9), "float32")
    store.forget_handles()
    assert store.on_disk("theta.main") and any((tmp_path / "disk").iterdir())
    end(other)
    assert remove_stale(tmp_path) == [folder]
    assert not any((tmp_path / "disk").iterdir())


def test_a_supernodes_store_waits_a_day_for_it(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    folder = new_store(other.pid, root=tmp_path, session=SESSION, host=0, kept=True)
    end(other)
    assert remove_stale(tmp_path) == [] and find_store(tmp_path, SESSION, 0) == folder
    old = time.time() - places.KEPT_SECONDS - 60
    for entry in folder.iterdir():
        os.utime(entry, (old, old))
    assert remove_stale(tmp_path) == [folder]


def change(folder: Path, **entries: object) -> None:
    note = json.loads((folder / "owner.json").read_text())
    (folder / "owner.json").write_text(json.dumps({**note, **entries}))


@pytest.mark.parametrize(
    "entries",
    [{"machine": "elsewhere"}, {"namespace": "pid:[1]"}, {"pid": "x"}, {"more": 1}],
    ids=["another machine", "another container", "not a note", "a later version"],
)
def test_whom_we_cannot_judge_we_leave_alone(
    tmp_path: Path, other: subprocess.Popen[bytes], entries: dict[str, object]
) -> None:
    folder = new_store(other.pid, root=tmp_path, session=SESSION, host=0)
    end(other)
    change(folder, **entries)
    assert remove_stale(tmp_path) == [] and folder.is_dir()


def test_a_process_id_given_again_is_another_process(tmp_path: Path) -> None:
    folder = new_store(os.getpid(), root=tmp_path, session=SESSION, host=0)
    assert remove_stale(tmp_path) == []
    change(folder, started="1")
    assert remove_stale(tmp_path) == [folder]


def test_stores_of_other_users_and_of_no_owner_stay(
    tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_store(other.pid, root=tmp_path, session=SESSION, host=0)
    (tmp_path / "fedunlearn-unnoted").mkdir()
    (tmp_path / "fedunlearn-link").symlink_to(folder)
    end(other)
    monkeypatch.setattr(places.os, "geteuid", lambda: os.getuid() + 1)
    assert remove_stale(tmp_path) == [] and find_store(tmp_path, SESSION, 0) is None
    monkeypatch.undo()
    assert remove_stale(tmp_path) == [folder]
    assert (tmp_path / "fedunlearn-unnoted").is_dir()


@pytest.mark.parametrize(("session", "host"), [("../../etc", 0), ("", 0), (SESSION + "\n", 0), (SESSION, -1)])
def test_a_session_from_a_message_never_leaves_the_folder(tmp_path: Path, session: str, host: int) -> None:
    with pytest.raises(UserError, match="which no conductor sends"):
        find_store(tmp_path, session, host)


def test_a_dead_process_is_dead_and_a_live_one_is_not(other: subprocess.Popen[bytes]) -> None:
    owner = Owner.of(other.pid)
    assert not owner.is_dead() and not Owner.of(os.getpid()).is_dead()
    other.kill()
    time.sleep(0.1)
    assert owner.is_dead(), "also before its parent has asked for its exit code"


def test_a_root_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"store = '.*file/below' is not a folder that can be made"):
        store_root(str(tmp_path / "file" / "below"), "")
    with pytest.raises(UserError, match=r"run config: store = 'stores' must be an absolute path"):
        store_root("", "stores")


def test_a_supernodes_own_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store_root("mine", "stores") == Path("mine") and (tmp_path / "mine").is_dir()
    assert store_root("", str(tmp_path / "new" / "deep")).is_dir()
    assert store_root("", "").is_dir()


def tokens(root: Path) -> list[Path]:
    return sorted(root.glob(".*"))


def test_hosts_that_begin_at_once_know_that_they_are_at_one_place(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        named = set(threads.map(lambda _: place_of(tmp_path, SESSION), range(40)))
    assert len(named) == 1 and "" not in named
    assert [oct(path.stat().st_mode & 0o777) for path in tokens(tmp_path)] == ["0o600"]
    assert place_of(tmp_path, SESSION[::-1]) not in named


def test_machines_of_one_snapshot_are_not_one_place(tmp_path: Path) -> None:
    here = place_of(tmp_path, SESSION)
    tokens(tmp_path)[0].unlink()  # there, where everything else has the same names and numbers, is another token
    assert place_of(tmp_path, SESSION) not in ("", here)


@pytest.mark.parametrize("whose", ["another user's", "a link", "a folder", "a pipe", "unreadable"])
def test_a_token_that_is_not_ours_is_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    place_of(tmp_path, SESSION)
    (token,) = tokens(tmp_path)
    if whose == "another user's":
        token.rename(tmp_path / f".fedunlearn-{SESSION}-{os.getuid() + 1}")
        monkeypatch.setattr(places.os, "geteuid", lambda: os.getuid() + 1)
    elif whose == "unreadable":
        token.write_bytes(b"\xff" * 64)
    else:
        token.rename(tmp_path / "elsewhere")
        {"a link": lambda: token.symlink_to("elsewhere"), "a folder": token.mkdir, "a pipe": lambda: os.mkfifo(token)}[
            whose
        ]()
    assert place_of(tmp_path, SESSION) == ""


def test_a_token_goes_with_the_last_store_of_its_session(tmp_path: Path) -> None:
    others = SESSION[::-1]
    stores = [new_store(os.getpid(), root=tmp_path, session=SESSION, host=host) for host in range(2)]
    beside = new_store(os.getpid(), root=tmp_path, session=others, host=0)
    here, there = place_of(tmp_path, SESSION), place_of(tmp_path, others)
    remove_store(stores[0])
    assert place_of(tmp_path, SESSION) == here
    remove_store(stores[1])
    assert len(tokens(tmp_path)) == 1 and place_of(tmp_path, others) == there
    remove_store(beside)
    assert not any(tmp_path.iterdir())


def test_a_token_without_a_store_goes_after_a_day(tmp_path: Path) -> None:
    old = time.time() - places.KEPT_SECONDS - 60
    others = SESSION[::-1]
    for session in (SESSION, others):
        place_of(tmp_path, session)
    for path in tokens(tmp_path):
        os.utime(path, (old, old))
    new_store(os.getpid(), root=tmp_path, session=others, host=0)
    place_of(tmp_path, "f" * 32)
    assert {path.name.split("-")[1] for path in tokens(tmp_path)} == {others, "f" * 32}
