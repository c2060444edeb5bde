"""A data set of which some samples lie elsewhere: everything is known of them but what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.dataset import FederatedDataset
from fedunlearn.errors import UserError


class AbsentDataError(UserError, LookupError):
    """A sample was asked for that lies on another machine."""


class HeldRows:
    """Rows of an array (n, ...) of which only some are here: it is indexed like the array, and gives those.

    Whatever would read another row, or the array as a whole, raises what ``tell(row)`` returns. It is no numpy array,
    so there is nothing in the place of absent rows that could be taken for a value.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, count: int, rows: NDArray[np.int64], values: NDArray[Any], tell: Callable[[int], AbsentDataError]
    ) -> None:
        self._values, self._tell = values, tell
        self._place = np.full(count, -1, dtype=np.int64)
        self._place[rows] = np.arange(len(rows))
        self.shape, self.dtype, self.ndim = (count, *values.shape[1:]), values.dtype, values.ndim
        self.nbytes = values.nbytes
        """Bytes of what is here."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        which, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        places = self._place[which]
        if (places < 0).any():
            raise self._tell(int(np.arange(len(self))[which].reshape(-1)[np.flatnonzero(places < 0)[0]]))
        return self._values[(places, *rest)]

    def _whole(self, *_: Any, **__: Any) -> NoReturn:
        raise self._tell(int(np.flatnonzero(self._place < 0)[0]))

    __array__ = __iter__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _whole

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python and numpy ask for such names to find out what this is
            raise AttributeError(name)
        self._whole()


@dataclass(frozen=True, eq=False)
class PartedDataset(FederatedDataset):
    """A data set with the content of some samples only: inputs and labels of the others raise AbsentDataError.

    ``whole``: content hash of the whole, which is this one's too. ``part_hashes``: content hash of each host's part,
    where this is the conductor's. Both, and the arrays, are given by :func:`parted`.
    """

    whole: str = ""
    part_hashes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """False: some samples lie elsewhere."""
        return False

    @property
    def parts(self) -> tuple[str, ...]:
        """Content hashes of the parts of the hosts."""
        return self.part_hashes

    def sha256(self) -> str:
        """Return the content hash of the whole."""
        return self.whole


def parted(
    rows: NDArray[np.int64], inputs: NDArray[Any], labels: NDArray[np.int64], *, name: str, offsets: NDArray[np.int64],
    client_names: tuple[str, ...], **rest: Any,
) -> PartedDataset:  # fmt: skip
    """Return the data set with the samples ``rows`` (k,): inputs (k, ...), labels (k,); ``rest``: the other fields."""

    def tell(row: int) -> AbsentDataError:
        client = int(np.searchsorted(offsets, row, side="right")) - 1
        return AbsentDataError(
            f"data set '{name}': the samples of client {client} ('{client_names[client]}') lie on another host "
            "(data.parts), so what needs them cannot be done here"
        )

    count = int(offsets[-1])
    for array in (inputs, labels, offsets):
        array.setflags(write=False)
    return PartedDataset(
        name=name, inputs=cast(NDArray[Any], HeldRows(count, rows, inputs, tell)),
        labels=cast(NDArray[np.int64], HeldRows(count, rows, labels, tell)), offsets=offsets,
        client_names=client_names, **rest,
    )  # fmt: skip
