"""A host: the block of vertices that one Flower SuperNode carries, and the operations it answers.

All state lies in the host's store, so a fresh process that knows the store's folder is the same host
(:meth:`Host.attach`); in memory there are only the worker pool and open mappings.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap
from fedunlearn.network import datasource
from fedunlearn.network.block import Block
from fedunlearn.network.execute import Command
from fedunlearn.network.mixing import localise
from fedunlearn.network.reduction import TreeSum
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply, Request
from fedunlearn.network.workers import Workers


class Host:
    """Answers the conductor's requests for one block of vertices."""

    def __init__(self, folder: Path, workers: Workers) -> None:
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
            "idle": lambda params, arrays: Reply(),
            "checkpoint": self._checkpoint,
            "rewind": self._rewind,
            "mix": self._mix,
            "export": self._export,
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
    def create(cls, folder: Path, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Host:
        """Lay out the store of a block in an empty folder: samples, stable sample ids, offsets, model."""
        workers = Workers(int(params["workers"]))  # they import torch while the data are read here
        try:
            dataset = datasource.obtain(params["dataset"], params["data"])
            store = Store(folder)
            features = FeatureMap.from_spec(params["features"], arrays)
            _lay_out_samples(store, dataset, features, *params["block"])
            kept = ("block", "num_nodes", "seed", "model", "device", "workers")
            store.write_json("block", {k: params[k] for k in kept})
            return cls(folder, workers)
        except BaseException:
            workers.close()
            raise

    @classmethod
    def attach(cls, folder: Path) -> Host:
        """Return the host of a store that already exists, in this process."""
        if not (folder / "block.json").is_file():
            raise UserError(f"the store {folder} of this host is gone; start the run again")
        return cls(folder, Workers(int(Store(folder).read_json("block")["workers"])))

    def refresh(self) -> None:
        """Open the arrays anew, here and in the workers: another process of this host may have replaced some."""
        self.block.generation += 1
        self.store.forget_handles()

    def handle(self, request: Request) -> Reply:
        """Carry out one request; raises UserError with one sentence for what a user can mend."""
        if request.op not in self._operations:
            raise UserError(f"a host was asked for the unknown operation '{request.op}'")
        return self._operations[request.op](request.params, request.arrays)

    def close(self) -> None:
        """End the workers and delete the store."""
        self.workers.close()
        self.store.remove()

    # --- state -----------------------------------------------------------------------------------------------------

    def _population(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Create a population: every row ``start`` (d,), or ``rows`` (n, d); ``alive`` (N,), ``keep`` by sample id."""
        name, count, dim = params["name"], self.block.high - self.block.low, self.block.model.dim
        theta = self.store.create(f"theta.{name}", (count, dim), np.float32)
        theta[...] = arrays["rows"] if "rows" in arrays else arrays["start"]
        if params["momentum"]:
            self.store.create(f"momentum.{name}", (count, dim), np.float32)
        self.store.put(f"alive.{name}", arrays["alive"])
        kept = ~np.isin(self.store["sample_ids"], arrays["deleted"])
        self.store.put(f"keep.{name}", kept)
        self.store.drop(f"halo.{name}")
        self.block.generation += 1
        self.store.forget_handles()
        sizes = np.add.reduceat(np.append(kept, 0), self.block.offsets[:-1]) if count else np.zeros(0)
        sizes[np.diff(self.block.offsets) == 0] = 0
        return Reply(arrays={"counts": sizes.astype(np.int64)})

    def _topology(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Take the block's rows of W (CSR over vertex ids); the reply names the foreign vertices it needs."""
        name = params["population"]
        position, outside = localise(arrays["indptr"], arrays["indices"], self.block.low, self.block.high)
        self.store.put(f"weights.{name}.indptr", arrays["indptr"].astype(np.int32))
        self.store.put(f"weights.{name}.indices", position.astype(np.int32))
        self.store.put(f"weights.{name}.data", arrays["data"].astype(np.float32))
        self.store.drop(f"halo.{name}")
        if len(outside):
            self.store.create(f"halo.{name}", (len(outside), self.block.model.dim), np.float32)
        self.block.generation += 1
        self.store.forget_handles()
        return Reply(arrays={"outside": outside})

    def _leave(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Mark vertices as gone; their rows and momenta are overwritten."""
        name = params["population"]
        for node in arrays["nodes"]:
            self.store[f"alive.{name}"][node] = False
            if self.block.low <= node < self.block.high:
                for kind in ("theta", "momentum"):
                    if f"{kind}.{name}" in self.store:
                        self.store[f"{kind}.{name}"][node - self.block.low] = np.nan
        return Reply()

    def _erase(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Take samples out of a population, and poison them in the store: a later read shows as NaN or as an error."""
        name = params["population"]
        gone = np.isin(self.store["sample_ids"], arrays["sample_ids"])
        self.store[f"keep.{name}"][gone] = False
        inputs = self.store["inputs"]
        inputs[gone] = np.nan if np.issubdtype(inputs.dtype, np.floating) else 255
        self.store["labels"][gone] = -1
        if f"momentum.{name}" in self.store:  # a sum of past gradients, some of them of these samples
            alive = self.store[f"alive.{name}"][self.block.low : self.block.high]
            self.store[f"momentum.{name}"][alive] = 0.0
        return Reply(params={"erased": int(gone.sum())})

    def _wipe(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Poison what commands leave behind: their input vectors, partial sums, and rows that came from other hosts."""
        for path in (p for kind in ("vector", "partial", "halo") for p in self.store.folder.glob(f"{kind}.*.npy")):
            array = self.store[path.name.removesuffix(".npy")]
            array[...] = np.nan if np.issubdtype(array.dtype, np.floating) else 0
        return Reply()

    def _drop(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        name = params["population"]
        for path in list(self.store.folder.glob(f"*.{name}.npy")) + list(
            self.store.folder.glob(f"weights.{name}.*.npy")
        ):
            self.store.drop(path.name.removesuffix(".npy"))
        self.block.generation += 1
        return Reply()

    def _close(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        self.close()
        return Reply()

    # --- rows ------------------------------------------------------------------------------------------------------

    def _read(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        rows = self.store[f"theta.{params['population']}"]
        return Reply(arrays={"rows": np.array(rows[arrays["nodes"] - self.block.low])})

    def _write(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Overwrite (or add to) the rows of the alive vertices; ``reset_momentum`` clears what training kept."""
        name = params["population"]
        alive = self.store[f"alive.{name}"][self.block.low : self.block.high]
        mask = (
            np.isin(np.arange(self.block.low, self.block.high), arrays["nodes"]) & alive if "nodes" in arrays else alive
        )
        theta = self.store[f"theta.{name}"]
        if params["operation"] == "set":
            theta[mask] = arrays["vector"]
        else:
            theta[mask] += arrays["vector"]
        if params["reset_momentum"] and f"momentum.{name}" in self.store:
            self.store[f"momentum.{name}"][mask] = 0.0
        return Reply()

    def _save(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Return everything that training changes: the block's parameters, and its momenta where there are any."""
        names = {kind: f"{kind}.{params['population']}" for kind in ("theta", "momentum")}
        return Reply(arrays={kind: np.array(self.store[name]) for kind, name in names.items() if name in self.store})

    def _restore(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Put back what :meth:`_save` returned."""
        for kind, rows in arrays.items():
            self.store[f"{kind}.{params['population']}"][...] = rows
        return Reply()

    def _copy(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Copy the rows of one population over those of another."""
        self.store[f"theta.{params['target']}"][...] = self.store[f"theta.{params['source']}"]
        return Reply()

    def _checkpoint(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Keep a copy of a population's rows under a label, until the population is dropped."""
        name = params["population"]
        self.store.put(f"checkpoint-{params['label']}.{name}", self.store[f"theta.{name}"])
        return Reply()

    def _rewind(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Put the rows of the alive vertices back to a checkpoint; momenta are cleared."""
        name = params["population"]
        alive = self.store[f"alive.{name}"][self.block.low : self.block.high]
        self.store[f"theta.{name}"][alive] = self.store[f"checkpoint-{params['label']}.{name}"][alive]
        if f"momentum.{name}" in self.store:
            self.store[f"momentum.{name}"][alive] = 0.0
        return Reply()

    def _export(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        return self._read(params, arrays)

    def _put(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Keep arrays under their names, for programs to read (evaluation samples)."""
        for name, values in arrays.items():
            if name in self.store and self.store[name].shape == values.shape and self.store[name].dtype == values.dtype:
                self.store[name][...] = values
            else:
                self.store.put(name, values)
                self.block.generation += 1
                self.store.forget_handles()
        return Reply()

    def _put_vectors(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep the input vectors of a command, until the next one or until they are wiped."""
        self._put({}, {f"vector.{name}": values for name, values in arrays.items()})

    # --- work ------------------------------------------------------------------------------------------------------

    def _commands(self, kind: str, params: dict[str, Any], pieces: int, grain: int = 1) -> list[Command]:
        """Cut the block into ``pieces`` ranges of about equal numbers of samples, at multiples of ``grain``."""
        low, high = self.block.low, self.block.high
        edges = low + np.searchsorted(self.block.offsets, np.linspace(0, self.block.offsets[-1], pieces + 1)[1:-1])
        bounds = np.unique(np.clip(np.concatenate([[low], np.round(edges / grain) * grain, [high]]), low, high))
        common = {**params, "kind": kind, "generation": self.block.generation}
        return [{**common, "range": [int(a), int(b)]} for a, b in pairwise(bounds)]

    def _pieces(self) -> int:
        """Return how many ranges to cut work into: several a worker even out unequal vertices, each costs a message."""
        return 6 * self.workers.count if self.workers.count > 1 else 1

    def _rows(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        self._put_vectors(arrays)
        self.workers.run(self._commands("rows", params, self._pieces(), params["grain"]))
        return Reply()

    def _mix(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Mix the block's rows once, with the foreign rows that came along."""
        name = params["population"]
        if "halo" in arrays and len(arrays["halo"]):
            self.store[f"halo.{name}"][...] = arrays["halo"]
        edges = np.linspace(0, self.block.model.dim, max(1, self.workers.count) + 1).astype(int)
        common = {"kind": "mix", "population": name, "generation": self.block.generation}
        self.workers.run([{**common, "range": [int(a), int(b)]} for a, b in pairwise(edges) if b > a])
        return Reply()

    def _rounds(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Train and mix for several rounds in one message: possible where no row crosses hosts."""
        for round_ in range(*params["rounds"]):
            work = {**params["work"], "params": {**params["work"]["params"], "round_": round_}}
            self._rows(work, {})
            if params["mix"]:
                self._mix({"population": params["work"]["population"]}, {})
        return Reply()

    def _sum(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Return the canonical partial sums of this block: keys (k, 2) and sums (k, d)."""
        self._put_vectors(arrays)
        commands = self._commands("sum", params, self._pieces())
        depth = 2 * (int(self.block.num_nodes).bit_length() + 1)
        for i, command in enumerate(commands):
            name = f"partial.{i}"
            if name not in self.store or self.store[name].shape != (depth, params["dim"]):
                self.store.create(name, (depth, params["dim"]), np.float64)
                self.block.generation += 1
                self.store.forget_handles()
            command["out"] = name
        for command in commands:
            command["generation"] = self.block.generation
        present = self.store[f"alive.{params['population']}"].copy()
        if params.get("only") is not None:
            mask = np.zeros_like(present)
            mask[params["only"]] = True
            present &= mask
        total = TreeSum(present)
        for command, answer in zip(commands, self.workers.run(commands)):
            names = answer["names"]
            total.merge(names, np.array(self.store[command["out"]][: len(names)]))
        keys, sums = total.partials()
        return Reply(arrays={"keys": keys, "sums": sums})

    def _walk(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Carry a token over a part of its route that lies in this block, and give it back."""
        self._put_vectors(arrays)
        self.workers.run([{**params, "kind": "walk", "generation": self.block.generation}])
        return Reply(arrays={"token": np.array(self.store["vector.token"])})

    def _measure(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        self._put_vectors(arrays)
        values = [v for a in self.workers.run(self._commands("measure", params, self._pieces())) for v in a["values"]]
        return Reply(arrays={"values": np.array(values, dtype=np.float64)})


def _lay_out_samples(store: Store, dataset: FederatedDataset, features: FeatureMap, low: int, high: int) -> None:
    """Copy the training samples of the block's clients, as the model will see them, into the store."""
    clients = dataset.clients(Role.TRAIN)[low:high]
    rows = [dataset.train_rows(int(c)) for c in clients]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    store.put("offsets", offsets)
    ids = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    store.put("sample_ids", ids.astype(np.int64))
    store.put("labels", dataset.labels[ids].astype(np.int64))
    if not len(ids):
        return
    # One client at a time: a network's output can depend on the batch it is computed in, and a client's batch does not
    # depend on how vertices are spread over hosts.
    sample = features.apply(dataset.inputs[rows[0]])
    inputs = store.create("inputs", (len(ids), *sample.shape[1:]), sample.dtype)
    for first, r in zip(offsets[:-1], rows):
        inputs[first : first + len(r)] = features.apply(dataset.inputs[r])
