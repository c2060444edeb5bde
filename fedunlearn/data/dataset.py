"""The one form in which every data set is held: contiguous samples, cut into clients by offsets, with roles."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError


class Role(enum.IntEnum):
    """What a client does in a run.

    TRAIN clients sit on the vertices of the graph and may ask for deletion. PUBLIC clients gave their data to all, for
    feature extractors and scaling constants, and are never eligible for deletion. NEVER_MEMBER clients take no part and
    serve as the control of membership inference. UNUSED clients keep their number but hold no samples.
    """

    TRAIN = 0
    PUBLIC = 1
    NEVER_MEMBER = 2
    UNUSED = 3


@dataclass(frozen=True, eq=False)
class FederatedDataset:
    """Samples of all clients in contiguous arrays, as in a CSR matrix.

    ``inputs``: uint8 images (n, H, W) or (n, H, W, C), ink or light bright; or float32 rows (n, p).
    ``labels``: int64 (n,) in 0..num_classes-1. ``offsets``: int64 (clients+1,); client c owns rows
    ``offsets[c]:offsets[c+1]``. ``is_test``: bool (n,). ``roles``: uint8 (clients,), values of :class:`Role`.
    A row number is the stable id of a sample: deletion never renumbers.
    """

    name: str
    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    offsets: NDArray[np.int64]
    is_test: NDArray[np.bool_]
    roles: NDArray[np.uint8]
    client_names: tuple[str, ...]
    class_names: tuple[str, ...]
    provenance: str
    synthetic: bool = False

    @property
    def num_clients(self) -> int:
        """Number of clients of all roles."""
        return len(self.offsets) - 1

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.inputs.shape[1:])

    @cached_property
    def client_of(self) -> NDArray[np.int64]:
        """Client number of every row, int64 (n,)."""
        return np.repeat(np.arange(self.num_clients, dtype=np.int64), np.diff(self.offsets))

    def clients(self, role: Role) -> NDArray[np.int64]:
        """Return the numbers of the clients of a role, increasing; the i-th TRAIN client sits on vertex i."""
        return np.flatnonzero(self.roles == int(role)).astype(np.int64)

    def train_rows(self, client: int) -> NDArray[np.int64]:
        """Return the row numbers of a client's training samples, increasing."""
        return self._rows(client, test=False)

    def test_rows(self, client: int) -> NDArray[np.int64]:
        """Return the row numbers of a client's test samples, increasing."""
        return self._rows(client, test=True)

    def _rows(self, client: int, test: bool) -> NDArray[np.int64]:
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client} does not exist (clients are 0 to {self.num_clients - 1})")
        low, high = int(self.offsets[client]), int(self.offsets[client + 1])
        return low + np.flatnonzero(self.is_test[low:high] == test).astype(np.int64)

    def all_train_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the training rows of all TRAIN clients, client by client, and offsets (train clients + 1,) into them.

        The i-th train client has ``rows[offsets[i]:offsets[i + 1]]``, the same as :meth:`train_rows`.
        """
        owner = self.client_of
        rows = np.flatnonzero(~self.is_test & (self.roles == int(Role.TRAIN))[owner]).astype(np.int64)
        sizes = np.bincount(owner[rows], minlength=self.num_clients)[self.clients(Role.TRAIN)]
        return rows, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def is_whole(self) -> bool:
        """Whether inputs and labels of all samples are here."""
        return True

    @property
    def parts(self) -> tuple[str, ...]:
        """Content hashes of the parts of the hosts, by host, where train clients' samples lie with them alone."""
        return ()

    def sha256(self) -> str:
        """Return the hash of the content (arrays, roles, names of clients and classes) in hexadecimal."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels, self.offsets, self.is_test, self.roles):
            digest.update(json.dumps([array.dtype.str, list(array.shape)]).encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(json.dumps([self.client_names, self.class_names]).encode())
        return digest.hexdigest()

    def validate(self) -> None:
        """Raise UserError, in one sentence, unless every array is what the class docstring says.

        Refused: NaN or infinite inputs, a label out of range, offsets that do not cover the rows, an unknown role, no
        train client, and a train client without a training sample.
        """
        self._validate_arrays()
        self.validate_clients()

    def _validate_arrays(self) -> None:
        n = len(self.inputs)
        images = self.inputs.dtype == np.uint8 and self.inputs.ndim in (3, 4)
        table = self.inputs.dtype == np.float32 and self.inputs.ndim == 2
        if not (images or table):
            raise UserError(
                f"data set '{self.name}': inputs of type {self.inputs.dtype} and shape {self.inputs.shape} are neither "
                "uint8 images (n, H, W[, C]) nor float32 rows (n, p)"
            )
        if n == 0:
            raise UserError(f"data set '{self.name}' has no samples")
        if len(self.labels) != n or len(self.is_test) != n:
            raise UserError(
                f"data set '{self.name}': {n} inputs, {len(self.labels)} labels and {len(self.is_test)} test marks "
                "should be equally many"
            )
        if table and not np.isfinite(self.inputs).all():
            row, column = np.argwhere(~np.isfinite(self.inputs))[0]
            raise UserError(
                f"data set '{self.name}': row {row}, column {column} is {self.inputs[row, column]}, not a finite number"
            )
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
        if len(wrong):
            raise UserError(
                f"data set '{self.name}': row {wrong[0]} has label {self.labels[wrong[0]]} "
                f"(allowed: 0 to {self.num_classes - 1})"
            )

    def validate_clients(self) -> None:
        """Raise UserError unless offsets, roles and names of clients fit each other and the number of samples."""
        offsets = self.offsets
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(self.inputs) or (np.diff(offsets) < 0).any():
            raise UserError(
                f"data set '{self.name}': offsets must rise from 0 to the number of samples, {len(self.inputs)}"
            )
        if len(self.roles) != self.num_clients or len(self.client_names) != self.num_clients:
            raise UserError(
                f"data set '{self.name}': {self.num_clients} clients, {len(self.roles)} roles and "
                f"{len(self.client_names)} client names should be equally many"
            )
        if (self.roles > max(Role)).any():
            raise UserError(f"data set '{self.name}': a role is one of 0 to {int(max(Role))}, not {self.roles.max()}")
        train = self.clients(Role.TRAIN)
        if not len(train):
            raise UserError(f"data set '{self.name}' has no train client")
        training = np.bincount(self.client_of[~self.is_test], minlength=self.num_clients)
        empty = train[training[train] == 0]
        if len(empty):
            raise UserError(
                f"data set '{self.name}': train client {empty[0]} ('{self.client_names[empty[0]]}') has no training "
                "sample; give it another role or make fewer clients"
            )
