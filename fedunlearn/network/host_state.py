"""What a host answers about its state: populations, graphs, rows, deletions, checkpoints, stored vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import resident
from fedunlearn.network.block import Block
from fedunlearn.network.mixing import localise
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply


class StateOperations:
    """The operations of a :class:`~fedunlearn.network.host.Host` that change or read what lies in its store."""

    block: Block
    store: Store

    # --- populations -----------------------------------------------------------------------------------------------

    def _population(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Create a population: every row ``start`` (d,), or ``rows`` (n, d); ``alive`` (N,), ``keep`` by sample id."""
        name, count, dim = params["name"], self.block.high - self.block.low, self.block.model.dim
        theta = self.store.create(f"theta.{name}", (count, dim), np.float32, aligned=True)
        for part in self.store.slices(f"theta.{name}"):
            theta[part] = arrays["rows"][part] if "rows" in arrays else arrays["start"]
        if params["momentum"]:
            self.store.create(f"momentum.{name}", (count, dim), np.float32, aligned=True)
        self.store.put(f"alive.{name}", arrays["alive"])
        self.store.put(f"seed.{name}", np.array([params["seed"]], dtype=np.int64))
        kept = ~np.isin(self.store["sample_ids"], arrays["deleted"])
        self.store.put(f"keep.{name}", kept)
        self.store.drop(f"halo.{name}")
        self.block.generation += 1
        self.store.forget_handles()
        return Reply()

    def _topology(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Take the block's rows of W (CSR over vertex ids); rows of foreign vertices in it come with every mixing."""
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
        return Reply()

    def _leave(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Mark vertices as gone; their rows and momenta are overwritten."""
        name = params["population"]
        self._poison("probabilities", "points")
        resident.forget(self.block)
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
        if "inputs" in self.store:  # a host whose vertices have no samples has none
            inputs = self.store["inputs"]
            inputs[gone] = np.nan if np.issubdtype(inputs.dtype, np.floating) else 255
        self.store["labels"][gone] = -1
        self._poison("probabilities", "points")  # what a search kept of every record, in any population
        resident.forget(self.block)
        # A momentum is a sum of past gradients, some of them of these samples.
        self._clear_momentum(name, self.store[f"alive.{name}"][self.block.low : self.block.high])
        return Reply(params={"erased": int(gone.sum())})

    def _wipe(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Poison what commands leave behind: their input vectors, partial sums, and rows that came from other hosts."""
        self._poison("vector", "partial", "halo", "probabilities", "points")
        return Reply()

    def _poison(self, *kinds: str) -> None:
        """Overwrite all arrays of some kinds: floats become NaN, numbers become zero."""
        for path in (p for kind in kinds for p in self.store.folder.glob(f"{kind}.*.npy")):
            array = self.store[path.name.removesuffix(".npy")]
            array[...] = np.nan if np.issubdtype(array.dtype, np.floating) else 0

    def _drop(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        name = params["population"]
        for path in list(self.store.folder.glob(f"*.{name}.npy")) + list(
            self.store.folder.glob(f"weights.{name}.*.npy")
        ):
            self.store.drop(path.name.removesuffix(".npy"))
        self.block.generation += 1
        return Reply()

    # --- rows ------------------------------------------------------------------------------------------------------

    def _read(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        rows = self.store[f"theta.{params['population']}"]
        return Reply(arrays={"rows": rows[arrays["nodes"] - self.block.low]})

    def _write(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Overwrite (or add to) the rows of the alive vertices; ``reset_momentum`` clears what training kept."""
        name = params["population"]
        alive = self.store[f"alive.{name}"][self.block.low : self.block.high]
        mask = (
            np.isin(np.arange(self.block.low, self.block.high), arrays["nodes"]) & alive if "nodes" in arrays else alive
        )
        theta = self.store[f"theta.{name}"]
        for part in self.store.slices(f"theta.{name}"):
            if params["operation"] == "set":
                theta[part][mask[part]] = arrays["vector"]
            else:
                theta[part][mask[part]] += arrays["vector"]
        if params["reset_momentum"]:
            self._clear_momentum(name, mask)
        return Reply()

    def _save(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Return everything that training changes: the block's parameters, and its momenta where there are any."""
        names = {kind: f"{kind}.{params['population']}" for kind in ("theta", "momentum")}
        return Reply(arrays={kind: np.array(self.store[name]) for kind, name in names.items() if name in self.store})

    def _restore(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Put back what :meth:`_save` returned."""
        for kind, rows in arrays.items():
            target = self.store[f"{kind}.{params['population']}"]
            for part in self.store.slices(f"{kind}.{params['population']}"):
                target[part] = rows[part]
        return Reply()

    def _copy(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Copy the rows of one population over those of another."""
        source, target = (self.store[f"theta.{params[role]}"] for role in ("source", "target"))
        for part in self.store.slices(f"theta.{params['source']}"):
            target[part] = source[part]
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
        theta, kept = self.store[f"theta.{name}"], self.store[f"checkpoint-{params['label']}.{name}"]
        for part in self.store.slices(f"theta.{name}"):
            theta[part][alive[part]] = kept[part][alive[part]]
        self._clear_momentum(name, alive)
        return Reply()

    def _clear_momentum(self, name: str, mask: NDArray[np.bool_]) -> None:
        if f"momentum.{name}" in self.store:
            momentum = self.store[f"momentum.{name}"]
            for part in self.store.slices(f"momentum.{name}"):
                momentum[part][mask[part]] = 0.0

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
