"""What a host answers by computing: programs on rows, canonical sums, measurements, mixing, walks, whole rounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fedunlearn.network.execute import Command
from fedunlearn.network.host_state import StateOperations
from fedunlearn.network.reduction import TreeSum
from fedunlearn.network.transport import Reply
from fedunlearn.network.workers import Workers


class WorkOperations(StateOperations):
    """The operations of a :class:`~fedunlearn.network.host.Host` that its workers carry out on ranges of vertices."""

    workers: Workers

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
