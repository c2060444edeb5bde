"""What requests may hold that make a host compute: the program that they name says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedunlearn.errors import UserError
from fedunlearn.network.declared import NodeProgram, declared
from fedunlearn.network.messages.doorway import Doorway
from fedunlearn.network.messages.kinds import LARGEST, Refused, Spec, at_least, check_arrays, check_ids, check_params
from fedunlearn.paths import is_plain_name

_VECTOR = Spec("float64", ("d",))
_CALL: dict[str, Any] = {"program": str, "params": dict[str, Any], "population": str}
_PROGRAM: dict[str, Any] = {**_CALL, "only": list[int] | None}


class ProgramRules(Doorway):
    """One rule for each operation that runs a declared node program."""

    def _rows(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {**_PROGRAM, "grain": int}, {"check": bool})
        self._runs("rows", params, arrays)

    def _sum(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {**_PROGRAM, "dim": int})
        self._runs("sum", params, arrays, params["dim"])

    def _measure(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {**_PROGRAM, "width": int}, {"grain": int})
        self._runs("measure", params, arrays, params["width"])

    def _walk(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {**_CALL, "route": list[list[int]]})
        for stop in params["route"]:
            if len(stop) != 2 or stop[0] < 0 or not (self.own == stop[1]).any():
                raise Refused("parameter 'route' names a stop that is not a hop and a vertex of this host")
        self._runs("walk", {**params, "only": None}, arrays)

    def _rounds(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"rounds": list[int], "work": list[dict[str, Any]]})
        rounds = params["rounds"]
        if len(rounds) != 2 or not 0 <= rounds[0] <= rounds[1] < LARGEST:
            raise Refused("parameter 'rounds' is not a first and a last round")
        check_arrays(arrays, {}, {}, {})
        names = []
        for work in params["work"]:
            check_params(work, {**_PROGRAM, "grain": int, "mix": bool})
            known = self.population(work["population"])
            if work["mix"] and (not known.mixes or known.halo or known.beside):
                raise Refused(f"population '{work['population']}' cannot be mixed on this host alone")
            if not isinstance(work["params"], dict) or "round_" in work["params"]:
                raise Refused("parameter 'round_' is counted by the host")
            self._runs("rows", {**work, "params": {**work["params"], "round_": rounds[0]}}, {})
            names.append(work["population"])
        if not names or len(set(names)) < len(names):
            raise Refused("parameter 'work' does not name different populations")

    def _runs(
        self, kind: str, params: Mapping[str, Any], arrays: Mapping[str, np.ndarray], numbers: int | None = None
    ) -> None:
        """Check what the operations that run a program have in common."""
        program = self._program(kind, params["program"])
        known = self.population(params["population"])
        if program.reads_samples:
            self._nothing_erased(params["population"])
        check_ids("only", params["only"], self.sizes["N"])
        at_least(params, grain=1)
        given = params["params"]
        check_params(
            given,
            {name: hint for name, (hint, needed) in program.types.items() if needed},
            {name: hint for name, (hint, needed) in program.types.items() if not needed},
        )
        # What a program reads by name must come with its message: one of an earlier message may still lie in the store.
        optional = dict.fromkeys(program.shared, _VECTOR)
        needed = {name: _VECTOR for name, tells in program.shared.items() if given.get(tells) is not None}
        for name, shape in program.vectors.items():
            if given.get(name) is not None:
                if not is_plain_name(given[name]):
                    raise Refused(f"parameter '{name}' names no array")
                needed[given[name]] = Spec("float64", (shape,))
        if kind == "walk":
            tokens = arrays.get("token")
            needed["token"] = Spec("float64", ("d",) if tokens is None or tokens.ndim == 1 else ("k", "d"))
        check_arrays(arrays, needed, optional, dict(self.sizes))
        lengths = {name: self.samples(name, given[name]) for name in program.samples}
        if len(set(lengths.values())) > 1:
            raise Refused(f"the arrays of parameters {', '.join(lengths)} are not of one length")
        for name in program.populations:
            self.population(given[name])
        if program.check is not None:
            fault = program.check(self.model, params["population"], given)
            if fault is not None:
                raise Refused(fault)
        if program.recipe is not None and given[program.recipe].get("momentum") and not known.momentum:
            raise Refused(f"population '{params['population']}' keeps no momenta")
        if numbers is not None:
            default = self.sizes["d"] if kind == "sum" else 1
            size = default if program.size is None else program.size(self.model, given, lengths)
            if numbers != size:
                raise Refused(f"the program gives {size} numbers a vertex, not {numbers}")

    def _nothing_erased(self, name: str) -> None:
        """Refuse to compute with a population that keeps samples which were erased on this host for another one."""
        known, ids = self.population(name), self.store["sample_ids"]
        gone = self.store["labels"] < 0
        for erased in self.erased:
            gone = gone | np.isin(ids, erased)
        if not gone.any():
            return
        kept = self.store[f"keep.{name}"] if known.deleted is None else ~np.isin(ids, known.deleted)
        for erased in known.erased:
            kept = kept & ~np.isin(ids, erased)
        if (gone & kept).any():
            raise Refused(f"population '{name}' still counts on samples that were erased")

    @staticmethod
    def _program(kind: str, name: str) -> NodeProgram:
        try:
            program = declared(name)
        except UserError as error:
            raise Refused(str(error)) from None
        if program.kind != kind:
            raise Refused(f"'{name}' is a program of '{program.kind}'")
        return program
