"""What a host answers by computing: programs on rows, canonical sums, measurements, mixing, walks, whole rounds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from fedunlearn.network import resident
from fedunlearn.network.execute import Command
from fedunlearn.network.host_border import BorderOperations
from fedunlearn.network.reduction import TreeSum
from fedunlearn.network.transport import Reply
from fedunlearn.network.workers import Workers

_FINITE = "fedunlearn.network.programs:finite"


class WorkOperations(BorderOperations):
    """The operations of a :class:`~fedunlearn.network.host.Host` that its workers carry out on ranges of vertices."""

    workers: Workers

    def _commands(self, kind: str, params: dict[str, Any], pieces: int, grain: int = 1) -> list[Command]:
        """Cut the block into ``pieces`` ranges by their numbers of samples, at multiples of ``grain``.

        Into more where rows lie on disk, so that a range of them fits in memory.
        """
        pieces = max(pieces, 2 * self.store.pieces(f"theta.{params['population']}") - 1)  # no share is above double
        low, high = self.block.low, self.block.high
        edges = low + np.searchsorted(self.block.offsets, self.workers.shares(pieces)[1:-1] * self.block.offsets[-1])
        bounds = np.unique(np.clip(np.concatenate([[low], np.round(edges / grain) * grain, [high]]), low, high))
        common = {**params, "kind": kind, "generation": self.block.generation}
        return [{**common, "range": [int(a), int(b)]} for a, b in pairwise(bounds)]

    def _pieces(self) -> int:
        """Return how many ranges to cut work into: several a worker even out unequal vertices, each costs a message."""
        return 6 * self.workers.count if self.workers.count > 1 else 1

    def _rows(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        self._put_vectors(arrays)
        answers = self.workers.run(self._commands("rows", params, self._pieces(), params["grain"]))
        return Reply({"sick": min((a["sick"] for a in answers if a.get("sick") is not None), default=None)})

    def _mix(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Mix the block's rows once, with the foreign rows that came along, and those in borders of hosts beside it.

        ``beside`` has the digests of the borders to read, by host; ``turn`` says which of the two. With
        ``keep`` the rows as they are now are kept in a slot, for messages that arrive in a later round.
        """
        name, keep = params["population"], params.get("keep")
        if keep is not None and f"past-{keep}.{name}" not in self.store:
            rows = (self.block.high - self.block.low, self.block.model.dim)
            self.store.create(f"past-{keep}.{name}", rows, np.float32, aligned=True)
        if "halo" in arrays and len(arrays["halo"]):
            self.store[f"halo.{name}"][self._travelled(name)] = arrays["halo"]
        if "beside" in params:
            self._fill_halo(name, params["turn"], [int(host) for host in params["beside"]])
        edges = np.linspace(0, self.block.model.dim, max(1, self.workers.count) + 1).astype(int)
        common = {"kind": "mix", "population": name, "keep": keep, "generation": self.block.generation}
        self.workers.run([{**common, "range": [int(a), int(b)]} for a, b in pairwise(edges) if b > a])
        return Reply()

    def _rounds(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Train and mix populations for several rounds in one message: possible where no row crosses hosts.

        Populations do not wait for one another: their pieces of work stand in one queue of the workers. A population
        ends early where a vertex trains itself to NaN or infinity: the reply has the number of rounds until then and
        the first such vertex, by population.
        """
        populations = [work["population"] for work in params["work"]]

        def learn(work: dict[str, Any]) -> list[int] | None:
            if resident.takes(self.block):
                resident.run_work(self.block, work, *params["rounds"])
                check = {"program": _FINITE, "params": {}, "population": work["population"], "width": 1}
                values = self._measure(check, {}).arrays["values"][:, 0]
                sick = self.block.by_id[values == 0.0]
                return [params["rounds"][1], int(self.block.ids[sick].min())] if len(sick) else None
            for round_ in range(*params["rounds"]):
                told = self._rows({**work, "params": {**work["params"], "round_": round_}, "check": True}, {})
                if told.params["sick"] is not None:
                    return [round_ + 1, told.params["sick"]]
                if work["mix"]:
                    self._mix({"population": work["population"]}, {})
            return None

        if self.workers.count == 0 or len(populations) == 1:
            found = [learn(work) for work in params["work"]]
        else:
            with ThreadPoolExecutor(len(populations)) as threads:
                found = list(threads.map(learn, params["work"]))
        return Reply({"sick": dict(zip(populations, found))})

    def _sum(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Return the canonical partial sums of this block: keys (k, 2) and sums (k, d)."""
        self._put_vectors(arrays)
        if "room" in params["params"]:
            self._room_for_probabilities(params["params"]["room"], params["population"])
        # Records, which the ranges share out evenly, are all the work there is, and an answer is waited for at once.
        commands = self._commands("sum", params, max(1, self.workers.count))
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
        total = TreeSum(present[self.block.order])
        for command, answer in zip(commands, self.workers.run(commands)):
            names = answer["names"]
            total.merge(names, np.array(self.store[command["out"]][: len(names)]))
        keys, sums = total.partials()
        return Reply(arrays={"keys": keys, "sums": sums})

    def _room_for_probabilities(self, name: str, population: str) -> None:
        """Make the arrays in which :mod:`fedunlearn.network.search_programs` keeps what a point gave."""
        if name not in self.store:
            block, records = self.block, len(self.store["labels"])
            self.store.create(name, (records, block.model.num_classes), np.float32)
            self.store.create(f"points.{population}", (block.high - block.low,), np.int64)

    def _walk(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Carry a token over a part of its route that lies in this block, and give it back."""
        self._put_vectors(arrays)
        self.workers.run([{**params, "kind": "walk", "generation": self.block.generation}])
        return Reply(arrays={"token": np.array(self.store["vector.token"])})

    def _measure(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Return numbers of every vertex of the block, (vertices, width) float64, NaN where one is absent, by id.

        The workers write them into an array of the store, for those of many vertices would fill long messages; they are
        not left there.
        """
        self._put_vectors(arrays)
        name = f"numbers-{params['width']}.{params['population']}"
        if name not in self.store:
            self.store.create(name, (self.block.high - self.block.low, params["width"]), np.float64)[...] = np.nan
        self.workers.run(self._commands("measure", params, self._pieces(), params.get("grain", 1)))
        values = self.store[name][self.block.by_id]
        self.store[name][...] = np.nan
        return Reply(arrays={"values": values})
