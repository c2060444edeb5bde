"""One file a host with the training samples of its clients alone, for SuperNodes that hold only their own data.

A part has the structure of the whole data set (which rows belong to whom, which are test samples, the roles) and the
content of its own clients' training samples. It names the content hash of the whole data set that it was cut from, and
its own, so that a host notices a part of other data, and one that was changed. ``conductor.npz`` has the content of all
other samples, the hashes of the parts, and the settings that the whole was made by (``data.parts`` names it).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.dataset import FederatedDataset, Role
from fedunlearn.data.parted import PartedDataset, parted
from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import read_npz
from fedunlearn.errors import UserError
from fedunlearn.plain_text import parse_json

SCHEMA = 1
CONDUCTOR = "conductor.npz"
_ARRAYS = ("rows", "inputs", "labels", "offsets", "is_test", "roles")
"""What a part holds besides its head; its digest covers all of them."""


@dataclass(frozen=True)
class Part:
    """The samples ``rows`` (k,) of a data set whose hash is ``whole``; ``dataset`` refuses to give any other.

    ``content`` is this part's own hash; ``settings`` are those the whole was made by, where the part tells them.
    """

    path: Path
    whole: str
    rows: NDArray[np.int64]
    dataset: PartedDataset
    content: str
    settings: dict[str, Any] | None

    def check(self, whole: str, vertices: NDArray[np.int64], agreed: str | None = None) -> None:
        """Raise UserError unless this is a part of the data set ``whole`` with all samples of these vertices.

        ``agreed``: the hash that the part must have; by default any.
        """
        if whole != self.whole:
            raise UserError(
                f"node config: data = '{self.path}' is a part of the data set {self.whole[:12]}, but the run is on "
                f"{whole[:12]}; split the data again with this experiment"
            )
        clients = self.dataset.clients(Role.TRAIN)[vertices]
        asked = np.concatenate([np.zeros(0, np.int64), *(self.dataset.train_rows(int(c)) for c in clients)])
        missing = np.setdiff1d(asked, self.rows)
        if len(missing):
            client = int(self.dataset.client_of[missing[0]])
            raise UserError(
                f"node config: data = '{self.path}' lacks the samples of client {client} "
                f"('{self.dataset.client_names[client]}'), which this host carries; split the data again with this "
                "experiment and this number of hosts, and give host h the part host-h.npz"
            )
        if agreed is not None and agreed != self.content:
            raise UserError(
                f"node config: data = '{self.path}' has the content {self.content[:12]}, but the conductor's file was "
                f"written with a part {agreed[:12]} for this host; take all parts from one `fedunlearn data split`"
            )


def split(
    dataset: FederatedDataset, members: Sequence[NDArray[np.int64]], folder: Path, settings: DataSettings | None = None
) -> list[Path]:
    """Write ``host-0.npz``, ... with the training samples of the vertices ``members[h]``, and ``conductor.npz``.

    ``settings`` are those the data set was made by, if it was: a run with other ones is then refused. The folder must
    be new or empty; UserError if it is not. Files are readable by their owner alone.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--out {folder}: is not empty; name a new folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    clients = dataset.clients(Role.TRAIN)
    paths, hashes = [], []
    given: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    for host, vertices in enumerate(members):
        rows = np.concatenate(
            [np.zeros(0, np.int64), *(dataset.train_rows(int(c)) for c in clients[np.sort(vertices)])]
        )
        paths.append(_write(folder / f"host-{host}.npz", dataset, rows, {}))
        hashes.append(_content(_arrays(dataset, rows)))
        given.append(rows)
    others = np.setdiff1d(np.arange(len(dataset.labels)), np.concatenate(given))
    return [*paths, _write(folder / CONDUCTOR, dataset, others, {"parts": hashes, "settings": _made_by(settings)})]


def conductor_part(path: Path, settings: DataSettings) -> PartedDataset:
    """Return the data set of ``conductor.npz``, without the training samples of the train clients.

    Raises UserError where it is another file, or was written for other settings of the data.
    """
    part = read_part(path)
    if not part.dataset.parts:
        raise UserError(f"data.parts = '{path}' is not the conductor's part; name the file {CONDUCTOR} beside it")
    part.dataset.validate_clients()
    mine = _made_by(settings)
    for key, value in (part.settings or {}).items():
        if mine is not None and mine.get(key) != value:
            raise UserError(
                f"data.parts = '{path}' was split with data.{key} = {value!r}, but here it is {mine.get(key)!r}; split "
                "the data again with this experiment"
            )
    return part.dataset


def _made_by(settings: DataSettings | None) -> dict[str, Any] | None:
    """Return the settings that decide what the data are; where files lie is each machine's own affair."""
    return None if settings is None else settings.model_dump(mode="json", exclude={"parts", "path"})


def read_part(path: Path) -> Part:
    """Return the part in a file; UserError where there is none, or one that was changed since it was written."""
    try:
        file = read_npz(path)
        head = parse_json(str(file["head"]))
        arrays = {name: file[name] for name in _ARRAYS}
        if head["schema"] != SCHEMA or head["content"] != _content(arrays):
            raise _Changed
        dataset = parted(
            **arrays, name=head["name"], client_names=tuple(head["clients"]), class_names=tuple(head["classes"]),
            provenance=head["provenance"], synthetic=bool(head["synthetic"]), whole=head["whole"],
            part_hashes=tuple(head.get("parts", ())),
        )  # fmt: skip
        return Part(path, head["whole"], arrays["rows"], dataset, head["content"], head.get("settings"))
    except _Changed:
        raise UserError(f"'{path}' was changed since `fedunlearn data split` wrote it; make it anew") from None
    except (UserError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' is not a part of a data set ({type(error).__name__}); make it anew") from None


class _Changed(Exception):
    """The content is not what the head says."""


def _write(path: Path, dataset: FederatedDataset, rows: NDArray[np.int64], more: dict[str, Any]) -> Path:
    arrays = _arrays(dataset, rows)
    head = {
        "schema": SCHEMA, "whole": dataset.sha256(), "content": _content(arrays), "name": dataset.name,
        "clients": dataset.client_names, "classes": dataset.class_names, "provenance": dataset.provenance,
        "synthetic": dataset.synthetic, **more,
    }  # fmt: skip
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        np.savez_compressed(file, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
    return path


def _arrays(dataset: FederatedDataset, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {
        "rows": rows, "inputs": dataset.inputs[rows], "labels": dataset.labels[rows], "offsets": dataset.offsets,
        "is_test": dataset.is_test, "roles": dataset.roles,
    }  # fmt: skip


def _content(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in _ARRAYS:
        digest.update(json.dumps([name, arrays[name].dtype.str, list(arrays[name].shape)]).encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
