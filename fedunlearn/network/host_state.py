"""What a host answers about its state: populations, graphs, rows, deletions, checkpoints, stored vectors."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import resident
from fedunlearn.network.block import Block
from fedunlearn.network.borders import BORDERS, PLAN
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
            theta[part] = arrays["rows"][self._ranks()[part]] if "rows" in arrays else arrays["start"]
        if params["momentum"]:
            self.store.create(f"momentum.{name}", (count, dim), np.float32, aligned=True)
        self.store.put(f"alive.{name}", arrays["alive"])
        self.store.put(f"seed.{name}", np.array([params["seed"]], dtype=np.int64))
        kept = ~np.isin(self.store["sample_ids"], arrays["deleted"])
        self.store.put(f"keep.{name}", kept)
        # Of an earlier population of this name nothing is left that would be taken for this one's.
        for matrix in ("indptr", "indices", "data", "past", *PLAN):
            self.store.drop(f"weights.{name}.{matrix}")
        for kind in ("halo", *BORDERS, "probabilities", "points", *(() if params["momentum"] else ("momentum",))):
            self.store.drop(f"{kind}.{name}")
        for path in list(self.store.folder.glob(f"past-*.{name}.npy")):
            self.store.drop(path.name.removesuffix(".npy"))
        self.block.generation += 1
        self.store.forget_handles()
        return Reply()

    def _topology(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Take the block's rows of W (CSR over vertex ids); rows of foreign vertices in it come with every mixing.

        ``border``, ``holders`` and ``at``: see :class:`~fedunlearn.network.borders.Border`.
        """
        name = params["population"]
        # Column a * N + j is vertex j as it was sent in the round of the a-th slot; columns below N are the rows now.
        slots, size = params.get("past", []), self.block.num_nodes
        own = (size * np.arange(len(slots) + 1)[:, None] + self.block.ids).ravel()
        position, outside = localise(arrays["indices"], own)
        # Where W changes from round to round, its entries often find room where those of the last round are.
        count, step = len(position), max(64, len(self.block.ids))
        room = -(-max(1, count) // step) * step
        indices, data = np.zeros(room, np.int32), np.zeros(room, np.float32)
        indices[:count], data[:count] = position, arrays["data"]
        indptr, past = arrays["indptr"].astype(np.int32), np.array(slots, dtype=np.int64)
        matrix: dict[str, np.ndarray] = {"past": past, "indptr": indptr, "indices": indices, "data": data}
        made = [self._hold(f"weights.{name}.{part}", values) for part, values in matrix.items()]
        for part in PLAN:
            if part in arrays:
                made.append(self._hold(f"weights.{name}.{part}", arrays[part]))
            elif f"weights.{name}.{part}" in self.store:
                self.store.drop(f"weights.{name}.{part}")
        if f"halo.{name}" in self.store or len(outside):
            made.append(True)
            self.store.drop(f"halo.{name}")
        if len(outside):
            self.store.create(f"halo.{name}", (len(outside), self.block.model.dim), np.float32)
        if any(made):
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
            if node in self.block.ids:
                for kind in ("theta", "momentum"):
                    if f"{kind}.{name}" in self.store:
                        self.store[f"{kind}.{name}"][self.block.place(node)] = np.nan
        self._poison("past", *BORDERS, population=name)
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
        self._clear_momentum(name, self.store[f"alive.{name}"][self.block.ids])
        return Reply(params={"erased": int(gone.sum())})

    def _wipe(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Poison what commands leave behind: their input vectors, partial sums, and rows that came from other hosts."""
        self._poison("vector", "partial", "halo", *BORDERS, "probabilities", "points")
        return Reply()

    def _poison(self, *kinds: str, population: str | None = None) -> None:
        """Overwrite all arrays of some kinds, or those of one population: floats become NaN, numbers become zero."""
        pattern = ".*.npy" if population is None else f"*.{population}.npy"
        for path in (p for kind in kinds for p in self.store.folder.glob(f"{kind}{pattern}")):
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
        kind = f"past-{params['past']}" if "past" in params else "theta"
        rows = self.store[f"{kind}.{params['population']}"]
        return Reply(arrays={"rows": rows[self.block.places(arrays["nodes"])]})

    def _write(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Overwrite (or add to) the rows of the alive vertices; ``reset_momentum`` clears what training kept."""
        name = params["population"]
        alive = self.store[f"alive.{name}"][self.block.ids]
        mask = np.isin(self.block.ids, arrays["nodes"]) & alive if "nodes" in arrays else alive
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
        """Return everything that training changes: the block's parameters, and its momenta where there are any.

        Rows travel in the order of ids, whatever the order in which they lie here.

        With ``copies`` also what :meth:`_checkpoint` has kept of the population, under ``checkpoint-<label>``, and the
        rows of past rounds that late messages still need, under ``past-<slot>``.
        """
        names = {kind: f"{kind}.{params['population']}" for kind in ("theta", "momentum")}
        if params.get("copies"):
            suffix = f".{params['population']}"
            kept = (self.store.folder.glob(f"{kind}-*{suffix}.npy") for kind in ("checkpoint", "past"))
            for path in sorted(chain.from_iterable(kept)):
                name = path.name.removesuffix(".npy")
                names[name.removesuffix(suffix)] = name
        return Reply(
            arrays={kind: self.store[name][self.block.by_id] for kind, name in names.items() if name in self.store}
        )

    def _restore(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Put back what :meth:`_save` returned."""
        ranks = self._ranks()
        for kind, rows in arrays.items():
            if f"{kind}.{params['population']}" not in self.store:  # a copy that this host has not kept yet
                aligned = kind.startswith("past-")
                self.store.create(f"{kind}.{params['population']}", rows.shape, np.float32, aligned=aligned)
            target = self.store[f"{kind}.{params['population']}"]
            for part in self.store.slices(f"{kind}.{params['population']}"):
                target[part] = rows[ranks[part]]
        return Reply()

    def _ranks(self) -> NDArray[np.int64]:
        """Return the number of smaller ids in the block for every vertex, (n,): which row that travels is its own."""
        return np.argsort(self.block.by_id)

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
        alive = self.store[f"alive.{name}"][self.block.ids]
        theta, kept = self.store[f"theta.{name}"], self.store[f"checkpoint-{params['label']}.{name}"]
        for part in self.store.slices(f"theta.{name}"):
            theta[part][alive[part]] = kept[part][alive[part]]
        self._clear_momentum(name, alive)
        return Reply()

    def _adopt(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Let ``nodes`` (k,) take over the rows of ``sources`` (k,), all at once, and ``restarts`` the row ``start``.

        ``halo`` are the rows of the sources that lie on other hosts, by ascending id. Momenta of ``forget`` become
        zero; rows and momenta of ``crashed`` are overwritten first.
        """
        name, ids = params["population"], self.block.ids
        theta = self.store[f"theta.{name}"]
        foreign = np.setdiff1d(arrays["sources"], ids)
        taken = [
            (node, arrays["halo"][np.searchsorted(foreign, source)] if source in foreign
             else np.array(theta[self.block.place(source)]))
            for node, source in zip(arrays["nodes"].tolist(), arrays["sources"].tolist()) if node in ids
        ]  # fmt: skip
        for kind in ("theta", "momentum"):
            if f"{kind}.{name}" in self.store:
                self.store[f"{kind}.{name}"][np.isin(ids, arrays["crashed"])] = np.nan
        for node, row in taken:
            theta[self.block.place(node)] = row
        theta[np.isin(ids, arrays["restarts"])] = arrays["start"]
        self._clear_momentum(name, np.isin(ids, arrays["forget"]))
        return Reply()

    def _forget(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Overwrite the rows of past rounds that late messages would have needed."""
        self._poison("past", population=params["population"])
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
            if self._hold(name, values):
                self.block.generation += 1
                self.store.forget_handles()
        return Reply()

    def _hold(self, name: str, values: np.ndarray) -> bool:
        """Store values where an array of their shape is, or else as a new array; return whether one was made."""
        if name in self.store and self.store[name].shape == values.shape and self.store[name].dtype == values.dtype:
            self.store[name][...] = values
            return False
        self.store.put(name, values)
        return True

    def _put_vectors(self, arrays: dict[str, np.ndarray]) -> None:
        """Keep the input vectors of a command, until the next one or until they are wiped."""
        self._put({}, {f"vector.{name}": values for name, values in arrays.items()})
