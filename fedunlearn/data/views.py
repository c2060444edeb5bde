"""The two doors to the samples: what training and unlearning may read, and what only evaluation may open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedunlearn.data.dataset import FederatedDataset

EVALUATION = "evaluation"


class DeletedDataError(LookupError):
    """Code asked for a deleted sample where it may not have it. A fault of the program, never of the user."""


class RetainView:
    """The training samples that are left: the only door of training and unlearning code.

    Rows are addressed by their stable numbers in the data set. The answers are copies, so nothing that is done with
    them changes the data set.
    """

    def __init__(self, dataset: FederatedDataset, deleted_rows: ArrayLike) -> None:
        deleted = np.zeros(len(dataset.labels), dtype=bool)
        deleted[_row_numbers(deleted_rows, len(dataset.labels))] = True
        deleted.setflags(write=False)
        self.__dataset, self.__deleted = dataset, deleted

    @property
    def deleted_rows(self) -> NDArray[np.int64]:
        """Row numbers of the deleted samples, increasing (their numbers are no secret, their content is)."""
        return np.flatnonzero(self.__deleted).astype(np.int64)

    def rows_of(self, client: int) -> NDArray[np.int64]:
        """Return the row numbers of a client's retained training samples, increasing; empty if none is left."""
        rows = self.__dataset.train_rows(client)
        return rows[~self.__deleted[rows]]

    def inputs(self, rows: ArrayLike) -> NDArray[Any]:
        """Return copies of the samples (k, ...) with these row numbers (k,).

        Raises DeletedDataError when one of them is deleted, and LookupError when one is a test sample.
        """
        return self.__dataset.inputs[self.__allowed(rows)]

    def labels(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Return the labels (k,) of these rows (k,); raises as :meth:`inputs` does."""
        return self.__dataset.labels[self.__allowed(rows)]

    def __allowed(self, rows: ArrayLike) -> NDArray[np.int64]:
        asked = _row_numbers(rows, len(self.__deleted))
        gone = asked[self.__deleted[asked]]
        if len(gone):
            raise DeletedDataError(f"row {gone[0]} of data set '{self.__dataset.name}' is deleted and may not be read")
        tests = asked[self.__dataset.is_test[asked]]
        if len(tests):
            raise LookupError(f"row {tests[0]} of data set '{self.__dataset.name}' is a test sample, not for training")
        return asked


def retain(dataset: FederatedDataset, deleted_rows: ArrayLike) -> RetainView:
    """Return the view of a data set without these rows (any integers; repeated numbers count once).

    Raises IndexError for a row that does not exist.
    """
    return RetainView(dataset, deleted_rows)


@dataclass(frozen=True)
class EscrowContent:
    """Deleted samples as evaluation sees them: row numbers (k,), inputs (k, ...), labels (k,)."""

    rows: NDArray[np.int64]
    inputs: NDArray[Any]
    labels: NDArray[np.int64]


class Escrow:
    """A copy of deleted samples that opens for evaluation and for nothing else.

    A simulator must measure how well it forgot, so it keeps what a real network would destroy. ``purpose`` says aloud
    what the copy is for: constructing one for another purpose raises ValueError, opening it for another purpose raises
    DeletedDataError.
    """

    def __init__(self, dataset: FederatedDataset, rows: ArrayLike, *, purpose: str = EVALUATION) -> None:
        if purpose != EVALUATION:
            raise ValueError(f"deleted samples may be kept for the purpose '{EVALUATION}' only, not for '{purpose}'")
        numbers = _row_numbers(rows, len(dataset.labels))
        self.purpose = purpose
        self.__content = EscrowContent(numbers, dataset.inputs[numbers], dataset.labels[numbers])
        for array in (self.__content.rows, self.__content.inputs, self.__content.labels):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.__content.rows)

    def open(self, *, purpose: str) -> EscrowContent:
        """Return the content, read-only, if the purpose is the one the escrow was made for."""
        if purpose != self.purpose:
            raise DeletedDataError(f"this escrow opens for the purpose '{self.purpose}', not for '{purpose}'")
        return self.__content


def _row_numbers(rows: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return rows as an int64 vector of its own; IndexError if one is not in 0..count-1."""
    asked = np.array(rows, copy=True).reshape(-1)
    if asked.dtype.kind not in "iu" and len(asked):
        raise IndexError(f"row numbers are integers, not {asked.dtype}")
    numbers = asked.astype(np.int64)
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if len(wrong):
        raise IndexError(f"row {wrong[0]} does not exist (rows are 0 to {count - 1})")
    return numbers
