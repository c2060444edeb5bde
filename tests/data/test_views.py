"""Deleted samples cannot be read through the retain view; the escrow opens for evaluation only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.data import DeletedDataError, Escrow, FederatedDataset, Role, retain


def poisoned(deleted: list[int]) -> FederatedDataset:
    """A table of 10 rows, two clients, whose deleted rows are NaN."""
    inputs = np.arange(30, dtype=np.float32).reshape(10, 3)
    inputs[deleted] = np.nan
    return FederatedDataset(
        name="poisoned",
        inputs=inputs,
        labels=np.arange(10) % 3,
        offsets=np.array([0, 4, 10]),
        is_test=np.arange(10) == 9,
        roles=np.zeros(2, dtype=np.uint8),
        client_names=("a", "b"),
        class_names=("0", "1", "2"),
        provenance="by hand",
    )


@given(st.sets(st.integers(0, 8)))
def test_what_the_view_offers_is_exactly_what_is_left(deleted: set[int]) -> None:
    data = poisoned(sorted(deleted))
    view = retain(data, sorted(deleted))
    offered = np.concatenate([view.rows_of(c) for c in data.clients(Role.TRAIN)])
    assert offered.tolist() == [r for r in range(9) if r not in deleted]
    assert np.isfinite(view.inputs(offered)).all()
    assert view.labels(offered).tolist() == [r % 3 for r in offered]
    assert view.deleted_rows.tolist() == sorted(deleted)
    for row in deleted:
        for read in (view.inputs, view.labels):
            with pytest.raises(DeletedDataError, match=f"row {row} .*deleted"):
                read([0, row] if 0 not in deleted else [row])


def test_view_refuses_test_samples_and_rows_that_do_not_exist() -> None:
    view = retain(poisoned([]), [])
    with pytest.raises(LookupError, match=r"row 9 .*test sample"):
        view.inputs([9])
    for rows in ([10], [-1]):
        with pytest.raises(IndexError, match="does not exist"):
            view.inputs(rows)
        with pytest.raises(IndexError, match="does not exist"):
            retain(poisoned([]), rows)
    with pytest.raises(IndexError, match="integers"):
        view.inputs([0.5])
    assert view.inputs([]).shape == (0, 3)


def test_view_gives_copies_and_ignores_later_changes_of_the_deleted_list() -> None:
    data = poisoned([])
    deleted = np.array([1])
    view = retain(data, deleted)
    view.inputs([0])[:] = -1
    view.labels([0])[:] = 9
    deleted[0] = 2
    assert data.inputs[0].tolist() == [0, 1, 2] and data.labels[0] == 0
    assert view.deleted_rows.tolist() == [1]


def test_escrow_opens_for_evaluation_only() -> None:
    data = poisoned([])
    escrow = Escrow(data, [2, 5])
    content = escrow.open(purpose="evaluation")
    assert len(escrow) == 2 and content.rows.tolist() == [2, 5]
    assert np.array_equal(content.inputs, data.inputs[[2, 5]]) and content.labels.tolist() == [2, 2]
    data.inputs[2] = np.nan
    assert np.isfinite(escrow.open(purpose="evaluation").inputs).all()
    with pytest.raises(DeletedDataError, match="not for 'training'"):
        escrow.open(purpose="training")
    with pytest.raises(ValueError, match="'evaluation' only"):
        Escrow(data, [2], purpose="training")
    with pytest.raises(ValueError, match="read-only"):
        content.inputs[0] = 0
