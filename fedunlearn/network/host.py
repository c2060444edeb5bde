"""A host: the block of vertices that one Flower SuperNode carries, and the operations it answers.

All state lies in the host's store, so a fresh process that knows the store's folder is the same host
(:meth:`Host.attach`); in memory there are only the worker pool and open mappings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap
from fedunlearn.network import datasource, resident
from fedunlearn.network.block import Block
from fedunlearn.network.borders import Beside, nobody_beside
from fedunlearn.network.host_work import WorkOperations
from fedunlearn.network.messages import check_requests, check_setup
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply, Request
from fedunlearn.network.workers import Workers


class Host(WorkOperations):
    """Answers the conductor's requests for one block of vertices."""

    def __init__(self, folder: Path, workers: Workers, beside: Beside | None = None) -> None:
        self.beside = beside or nobody_beside
        self.block = Block(folder)
        self.store = self.block.store
        self.workers = workers
        workers.open(self.block)
        self._operations: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], Reply]] = {
            "population": self._population,
            "topology": self._topology,
            "rounds": self._rounds,
            "rows": self._rows,
            "sum": self._sum,
            "measure": self._measure,
            "walk": self._walk,
            "checkpoint": self._checkpoint,
            "rewind": self._rewind,
            "mix": self._mix,
            "adopt": self._adopt,
            "forget": self._forget,
            "export": self._export,
            "border": self._border,
            "read": self._read,
            "write": self._write,
            "save": self._save,
            "restore": self._restore,
            "put": self._put,
            "copy": self._copy,
            "leave": self._leave,
            "erase": self._erase,
            "wipe": self._wipe,
            "drop": self._drop,
            "close": self._close,
        }

    @classmethod
    def create(
        cls, folder: Path, params: dict[str, Any], arrays: dict[str, np.ndarray],
        own: Callable[[], FederatedDataset] | None = None, beside: Beside | None = None,
    ) -> Host:  # fmt: skip
        """Lay out the store of a block in an empty folder: samples, stable sample ids, offsets, model.

        The samples are those of ``own``, where this host has some of its own; ``beside`` finds the stores of hosts on
        the same machine. Whatever goes wrong, the folder is then
        gone.
        """
        workers = None
        try:
            check_setup(params, arrays)
            workers = Workers(int(params["workers"]))  # they import torch while the data are read here
            dataset = datasource.obtain(params["dataset"], params["data"]) if own is None else own()
            if params["num_nodes"] != len(dataset.clients(Role.TRAIN)):
                raise UserError("a host was sent a malformed 'setup': the data have another number of vertices")
            store = Store(folder)
            store.limit(params["room"], params["scratch"])
            features = FeatureMap.from_spec(params["features"], arrays)
            shapes = features.input_shape, tuple(params["model"]["input_shape"])
            if shapes != (dataset.input_shape, features.output_shape):
                raise UserError("a host was sent a malformed 'setup': samples, features and model do not fit together")
            if "order" in arrays:
                store.put("order", arrays["order"])
            low, high = params["block"]
            _lay_out_samples(store, dataset, features, arrays.get("order", np.arange(params["num_nodes"]))[low:high])
            kept = ("block", "num_nodes", "model", "device", "workers")
            store.write_json("block", {k: params[k] for k in kept})
            return cls(folder, workers, beside)
        except BaseException:
            if workers is not None:
                workers.close()
            Store(folder).remove()  # nobody else knows the folder
            raise

    @classmethod
    def attach(cls, folder: Path, beside: Beside | None = None) -> Host:
        """Return the host of a store that already exists, in this process."""
        if not (folder / "block.json").is_file():
            raise UserError(f"the store {folder} of this host is gone; start the run again")
        return cls(folder, Workers(int(Store(folder).read_json("block")["workers"])), beside)

    def refresh(self) -> None:
        """Open the arrays anew, here and in the workers: another process of this host may have replaced some."""
        self.block.generation += 1
        self.store.forget_handles()
        resident.forget(self.block)

    def handle(self, request: Request) -> Reply:
        """Carry out one request; raises UserError with one sentence for what a user can mend."""
        check_requests(self.block, request, self.beside)
        before = tuple(self._carry_out(each) for each in request.before)
        reply = self._carry_out(request)
        return replace(reply, before=before) if before else reply

    def _carry_out(self, request: Request) -> Reply:
        return self._operations[request.op](request.params, request.arrays)

    def close(self) -> None:
        """End the workers and delete the store."""
        self.workers.close()
        self.store.remove()

    def _close(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        self.close()
        return Reply()


def _lay_out_samples(
    store: Store, dataset: FederatedDataset, features: FeatureMap, vertices: NDArray[np.int64]
) -> None:
    """Copy the training samples of the block's clients, as the model will see them, into the store."""
    rows, everything = dataset.all_train_rows()
    counts = np.diff(everything)[vertices]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = rows[np.arange(offsets[-1]) + np.repeat(everything[vertices] - offsets[:-1], counts)]
    store.put("offsets", offsets)
    store.put("sample_ids", ids)
    store.put("labels", dataset.labels[ids].astype(np.int64))
    if not len(ids):
        return
    sample = features.apply(dataset.inputs[ids[:1]])
    inputs = store.create("inputs", (len(ids), *sample.shape[1:]), sample.dtype)
    if features.kind == "raw":
        for part in store.slices("inputs"):
            inputs[part] = dataset.inputs[ids[part]]
        return
    # One client at a time: a network's output can depend on the batch it is computed in, and a client's batch does not
    # depend on how vertices are spread over hosts.
    for first, last in pairwise(offsets.tolist()):
        inputs[first:last] = features.apply(dataset.inputs[ids[first:last]])
    store.release()
