"""A host carries every message out once, in turn, and says when it cannot know what it has done."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.flower.journal import Journal
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply

SESSION = "0" * 32


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of a store with rows, after message 0."""
    Store(tmp_path).put("theta.main", np.arange(40_000.0).reshape(200, 200))
    journal = Journal(tmp_path, SESSION, 1)
    journal.open()
    journal.begin(0)
    journal.finish(0, Reply())
    return journal


def test_the_next_message_is_carried_out(journal: Journal) -> None:
    assert journal.answer(1) is None


def test_a_message_delivered_again_gets_the_bits_of_its_first_answer(journal: Journal) -> None:
    nan = np.array([0x7FC00001, 0x80000000], np.uint32).view(np.float32)
    reply = Reply(
        {"n": 3}, {"x": nan, "none": np.zeros((0, 2), bool)}, (Reply({"early": [1, None]}, {"x": np.eye(2)}),)
    )
    journal.begin(1)
    journal.finish(1, reply)
    again = Journal(journal.folder, SESSION, 1).answer(1)  # another process
    assert again is not None and again.params == {"n": 3} and again.before[0].params == {"early": [1, None]}
    assert again.arrays["x"].tobytes() == nan.tobytes() and again.arrays["none"].shape == (0, 2)
    assert again.arrays["none"].dtype == bool and again.before[0].arrays["x"].tolist() == [[1, 0], [0, 1]]
    assert journal.answer(2) is None


def test_a_mistake_delivered_again_is_the_same_sentence(journal: Journal) -> None:
    journal.begin(1)
    journal.finish(1, UserError("no such file"))
    with pytest.raises(UserError, match=r"^no such file$"):
        journal.answer(1)


def test_a_message_broken_off_half_way_is_refused(journal: Journal) -> None:
    journal.begin(1)
    for sequence in (1, 2, 0):
        with pytest.raises(UserError, match=r"host 1 was stopped in the middle of message 1: .*; resume the run"):
            Journal(journal.folder, SESSION, 1).answer(sequence)


@pytest.mark.parametrize("sequence", [2, 7, -1])
def test_a_message_out_of_turn_is_refused(journal: Journal, sequence: int) -> None:
    with pytest.raises(UserError, match=f"host 1 got message {sequence} after message 0, which is not its turn"):
        journal.answer(sequence)


def test_another_hosts_store_is_refused(journal: Journal) -> None:
    with pytest.raises(UserError, match="belongs to another host or session"):
        Journal(journal.folder, SESSION, 0).answer(1)


def test_whose_a_store_is_does_not_depend_on_what_was_done(journal: Journal) -> None:
    journal.begin(1)
    Journal(journal.folder, SESSION, 1).check_owner()
    for session, host in ((SESSION, 0), ("1" * 32, 1)):
        with pytest.raises(UserError, match="belongs to another host or session"):
            Journal(journal.folder, session, host).check_owner()
    (journal.folder / "journal.json").unlink()
    Journal(journal.folder, SESSION, 1).check_owner()


@pytest.mark.parametrize("place", [0, -1])
def test_rows_changed_by_somebody_else_are_noticed(journal: Journal, place: int) -> None:
    Store(journal.folder)["theta.main"][place, place] += 1
    with pytest.raises(UserError, match="was changed by somebody else"):
        journal.answer(1)


def test_an_array_that_is_missing_is_noticed(journal: Journal) -> None:
    Store(journal.folder).drop("theta.main")
    with pytest.raises(UserError, match="was changed by somebody else"):
        journal.answer(1)


def test_a_store_that_is_older_than_the_handle_is_noticed(journal: Journal) -> None:
    with pytest.raises(UserError, match="is not as host 1 left it"):
        journal.answer(1, checksum="what the SuperNode remembers of a later state")


def test_a_lost_journal_is_told(journal: Journal) -> None:
    (journal.folder / "journal.json").write_text('{"begun": 0, "do')
    with pytest.raises(UserError, match="is gone or damaged; resume the run"):
        journal.answer(1)
    assert not journal.is_done(0)


def test_one_process_at_a_time_holds_the_journal(journal: Journal) -> None:
    seen: list[str] = []

    def other() -> None:
        with Journal(journal.folder, SESSION, 1).held():
            seen.append("other")

    with journal.held():
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.2)
        seen.append("first")
    thread.join(timeout=10)
    assert seen == ["first", "other"]
