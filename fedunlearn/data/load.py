"""From settings to a data set: source, partition, test split, roles, checks."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.dataset import FederatedDataset, Role
from fedunlearn.data.partition import cap, draw_pool, hold_out, partition
from fedunlearn.data.roles import default_roles, has_selection, select_roles
from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources import DEFAULT_FILES, SOURCES, SourceData, load_source
from fedunlearn.data.sources.base import default_path
from fedunlearn.data.split import conductor_part
from fedunlearn.errors import UserError
from fedunlearn.paths import confined

DEFAULT_CLIENTS = 20
POOL_SHARE = 0.1


def load_dataset(settings: DataSettings) -> FederatedDataset:
    """Return the data set that the settings describe; the arrays are read-only.

    The last two are kept in memory: the same settings give the same object as long as the file behind them keeps its
    size and time stamp. Raises UserError, in one sentence, for whatever is wrong with the source or the settings.
    """
    return _load(settings, _stamp(settings))


@lru_cache(maxsize=2)
def _load(settings: DataSettings, stamp: tuple[str, int, int] | None) -> FederatedDataset:
    if settings.parts is not None:
        return conductor_part(confined(settings.parts, "data.parts"), settings)
    dataset = assemble(load_source(settings), settings)
    dataset.validate()
    for array in (dataset.inputs, dataset.labels, dataset.offsets, dataset.is_test, dataset.roles):
        array.setflags(write=False)
    return dataset


def _stamp(settings: DataSettings) -> tuple[str, int, int] | None:
    """Return what tells one state of the source's file from another."""
    if settings.parts is not None:
        path: Path | None = confined(settings.parts, "data.parts")
    elif settings.path is not None:
        path = confined(settings.path, "data.path")
    else:
        path = default_path(DEFAULT_FILES.get(settings.source))
    if path is None or not path.exists():
        return None
    files = [path] if path.is_file() else [path, *sorted(path.rglob("*"))]
    status = [file.stat() for file in files if file.exists()]
    newest = hash(tuple((s.st_mtime_ns, s.st_size) for s in status))  # a folder's own time does not tell of its files
    return str(path.resolve()), newest, len(status)


def assemble(source: SourceData, settings: DataSettings) -> FederatedDataset:
    """Return the source's samples cut into clients, split, capped and given roles, in the order of the clients."""
    if _is_natural(source, settings):
        assert source.owner is not None
        owner, names = source.owner, source.client_names
        roles = select_roles(settings, len(names)) if has_selection(settings) else _default_roles(source, settings)
        capped = len(names)
        made_up = int((roles[len(names) - source.generated :] != Role.UNUSED).sum())
    else:
        owner, names, roles, capped = _cut(source, settings)
        made_up = source.generated
    keep = roles[owner] != Role.UNUSED
    is_test = source.is_test
    if is_test is None:
        is_test = hold_out(owner, len(names), settings.test_fraction, settings.seed)
    if settings.max_samples_per_client is not None:
        few = cap(owner, is_test, len(names), settings.max_samples_per_client, settings.seed)
        keep &= few | (owner >= capped)
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    sizes = np.bincount(owner[rows], minlength=len(names))
    return FederatedDataset(
        name=_name(source, settings, made_up),
        inputs=_take(source.inputs, rows),
        labels=source.labels[rows],
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        is_test=is_test[rows],
        roles=roles,
        client_names=names,
        class_names=source.class_names,
        provenance=source.provenance,
        synthetic=source.synthetic or made_up > 0,
    )


def _name(source: SourceData, settings: DataSettings, made_up: int) -> str:
    if made_up:
        return f"{settings.source} and {made_up} synthetic writers"
    return f"synthetic {settings.source}" if source.synthetic else settings.source


def _default_roles(source: SourceData, settings: DataSettings) -> NDArray[np.uint8]:
    """Return the source's default roles; clients that were made up to have more of them are there to train."""
    real = len(source.client_names) - source.generated
    return np.concatenate([default_roles(settings.source, real), np.full(source.generated, Role.TRAIN, dtype=np.uint8)])


def _take(inputs: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return the rows, without a second copy of the data when they are all there in order."""
    if len(rows) == len(inputs) and (rows == np.arange(len(rows))).all():
        return np.ascontiguousarray(inputs)
    return inputs[rows]


def _is_natural(source: SourceData, settings: DataSettings) -> bool:
    """Return whether the source's own clients are kept; UserError when the settings ask for what cannot be."""
    if settings.partition == "natural" and source.owner is None:
        raise UserError(
            f"data.partition = 'natural' needs clients, but source '{settings.source}' has none of its own "
            "(allowed: iid, dirichlet, shards)"
        )
    natural = settings.partition == "natural" or (settings.partition is None and source.owner is not None)
    if natural and settings.clients is not None:
        raise UserError(
            f"data.clients = {settings.clients} has no meaning with source '{settings.source}', which has "
            f"{len(source.client_names)} clients of its own; name some in data.train_clients, or set data.partition to "
            "iid, dirichlet or shards"
        )
    return natural


def _cut(
    source: SourceData, settings: DataSettings
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.uint8], int]:
    """Return owner (n,), client names, roles and the number of clients that were cut, for a pooled source.

    Without selections two pools of a tenth of the samples are set aside first, as one public and one never-member
    client behind the train clients; with selections all samples are cut, and the selections name the pieces.
    """
    clients = settings.clients if settings.clients is not None else DEFAULT_CLIENTS
    chosen = has_selection(settings)
    pool = np.zeros(len(source.labels), dtype=np.int64)
    if not chosen:
        pool = draw_pool(source.is_test, len(source.labels), POOL_SHARE, settings.seed)
    own = np.flatnonzero(pool == 0)
    owner = clients + pool - 1
    owner[own] = partition(
        settings.partition or "iid",
        source.labels[own],
        None if source.is_test is None else source.is_test[own],
        clients,
        settings.seed,
        alpha=settings.alpha,
        shards_per_client=settings.shards_per_client,
    )
    names = tuple(f"client {c}" for c in range(clients))
    if chosen:
        return owner, names, select_roles(settings, clients), clients
    roles = np.array([Role.TRAIN] * clients + [Role.PUBLIC, Role.NEVER_MEMBER], dtype=np.uint8)
    return owner, (*names, "public pool", "never-member pool"), roles, clients


def describe(settings: DataSettings) -> dict[str, Any]:
    """Return what ``fedunlearn data info`` shows of a data set, as plain JSON values; raises as load_dataset does."""
    dataset = load_dataset(settings)
    sizes = np.diff(dataset.offsets)
    tests = np.bincount(dataset.client_of[dataset.is_test], minlength=dataset.num_clients)
    roles = {}
    for role in Role:
        clients = dataset.clients(role)
        if not len(clients):
            continue
        own = sizes[clients]
        roles[role.name.lower().replace("_", "-")] = {
            "clients": len(clients),
            "numbers": _ranges(clients),
            "train_samples": int((sizes - tests)[clients].sum()),
            "test_samples": int(tests[clients].sum()),
            "samples_per_client": {"min": int(own.min()), "median": float(np.median(own)), "max": int(own.max())},
        }
    return {
        "name": dataset.name,
        "source": settings.source,
        "description": SOURCES[settings.source].description,
        "provenance": dataset.provenance,
        "synthetic": dataset.synthetic,
        "samples": len(dataset.labels),
        "test_samples": int(dataset.is_test.sum()),
        "input_shape": list(dataset.input_shape),
        "input_type": str(dataset.inputs.dtype),
        "bytes": int(dataset.inputs.nbytes + dataset.labels.nbytes),
        "classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "samples_per_class": (
            np.bincount(dataset.labels, minlength=dataset.num_classes).tolist() if dataset.is_whole else None
        ),
        "clients": dataset.num_clients,
        "roles": roles,
        "sha256": dataset.sha256(),
    }


def _ranges(numbers: NDArray[np.int64]) -> str:
    """Return increasing numbers as a selection text such as '0-99,120'."""
    pieces = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in pieces)
