"""What requests may hold that change or read what lies in a host's store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fedunlearn.network.borders import TRAVELS, border_name, digest_of, find_border, rows_read
from fedunlearn.network.messages.doorway import Doorway, Population
from fedunlearn.network.messages.kinds import (
    MOST_SLOTS,
    SLOTS,
    Refused,
    Spec,
    all_finite,
    at_least,
    check_arrays,
    check_params,
    is_digest,
    is_free,
)


class StateRules(Doorway):
    """One rule for each operation of :class:`~fedunlearn.network.host_state.StateOperations`, and for mixing."""

    def _population(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"name": str, "momentum": bool, "seed": int})
        at_least(params, seed=0)
        self.known(params["name"])
        alive, deleted = Spec("bool", ("N",)), Spec("int64", ("k",), low=0)
        start, rows = {"start": Spec("float32", ("d",))}, {"rows": Spec("float32", ("n", "d"))}
        first = rows if "rows" in arrays else start
        check_arrays(arrays, {**first, "alive": alive, "deleted": deleted}, {**start, **rows}, dict(self.sizes))
        self.populations[params["name"]] = Population(params["momentum"], False, 0, deleted=arrays["deleted"])

    def _topology(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str}, {"past": list[int]})
        past = params.get("past", [])
        known = self.slots(params["population"], past)
        sizes = {**self.sizes, "n+1": len(self.own) + 1, "columns": (len(past) + 1) * self.sizes["N"]}
        needed = {
            "indptr": Spec("int64", ("n+1",), low=0),
            "indices": Spec("int64", ("k",), low=0, high="columns"),
            "data": Spec("float64", ("k",), low=0),
        }
        shared = {
            "border": Spec("int64", ("b",), low=0, high="N", rising=True),
            "holders": Spec("int64", ("m",), low=TRAVELS, high="N"),
            "at": Spec("int64", ("m",), low=0, high="N"),
        }
        with_border = any(name in arrays for name in shared)
        check_arrays(arrays, {**needed, **(shared if with_border else {})}, {}, sizes)
        indptr, weights = arrays["indptr"], arrays["data"]
        if indptr[0] != 0 or indptr[-1] != sizes["k"] or (np.diff(indptr) < 0).any():
            raise Refused("array 'indptr' does not cut 'indices' into rows")
        before = np.concatenate([[0.0], np.cumsum(weights)])
        totals, filled = np.diff(before[indptr]), np.diff(indptr) > 0
        if (np.abs(totals[filled] - 1.0) > 1e-6).any():
            raise Refused("a row of the mixing matrix does not add up to one")
        columns = np.unique(arrays["indices"])
        known.halo, known.mixes = int((~np.isin(columns % self.sizes["N"], self.own)).sum()), True
        known.beside, known.borders = {}, with_border
        if with_border:
            if past or sizes["m"] != known.halo or not self.block.holds(arrays["border"]):
                raise Refused("its border is not that of its rows")
            known.halo = int((arrays["holders"] == TRAVELS).sum())
            known.beside = rows_read(arrays["holders"], arrays["at"])

    def _mix(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str}, {"keep": int, "beside": dict[str, str], "turn": int})
        known = self.population(params["population"])
        if "keep" in params:
            if not 0 <= params["keep"] < MOST_SLOTS:
                raise Refused(f"parameter 'keep' = {str(params['keep'])[:30]} is out of range")
            known.past.add(params["keep"])
        if not known.mixes:
            raise Refused(f"population '{params['population']}' has no mixing matrix")
        self._borders_read(params, known.beside)
        halo = {"halo": Spec("float32", (known.halo, "d"))}
        check_arrays(arrays, halo if known.halo else {}, halo, dict(self.sizes))

    def _borders_read(self, params: Any, needed: Mapping[int, int]) -> None:
        """Check that the borders to read are there, as the conductor was told of them, before anything is done."""
        told, turn = params.get("beside", {}), params.get("turn")
        if set(told) != {str(host) for host in needed} or not all(map(is_digest, told.values())):
            raise Refused("parameter 'beside' does not name the borders that this host reads")
        if told and turn not in (0, 1):
            raise Refused("parameter 'turn' names no border")
        for host, rows in needed.items():
            border = find_border(self.beside(host), border_name(params["population"], turn))
            if border is None or border.shape[1] != self.sizes["d"] or len(border) < rows:
                raise Refused(f"host {host} is not on this machine, or does not share the rows that are asked of it")
            if digest_of(border) != told[str(host)]:
                raise Refused(f"host {host} shares other rows than the conductor was told of")
            if not all_finite(border):
                raise Refused(f"host {host} shares a row that holds a value that is not a finite number")

    def _border(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str, "turn": int})
        if not self.population(params["population"]).borders or params["turn"] not in (0, 1):
            raise Refused("there is no such border")
        check_arrays(arrays, {}, {}, {})

    def _adopt(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str})
        self.population(params["population"])
        some = {name: Spec("int64", (letter,), low=0, high="N", rising=True)
                for name, letter in (("nodes", "k"), ("restarts", "r"), ("forget", "f"), ("crashed", "c"))}  # fmt: skip
        needed = {**some, "sources": Spec("int64", ("k",), low=0, high="N"), "start": Spec("float32", ("d",))}
        foreign = np.setdiff1d(arrays["sources"], self.own) if "sources" in arrays else ()
        halo = {"halo": Spec("float32", (len(foreign), "d"))}
        check_arrays(arrays, {**needed, **(halo if len(foreign) else {})}, halo, dict(self.sizes))

    def _leave(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str})
        self.population(params["population"])
        check_arrays(arrays, {"nodes": Spec("int64", ("k",), low=0, high="N")}, {}, dict(self.sizes))

    def _erase(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str})
        known = self.population(params["population"])
        check_arrays(arrays, {"sample_ids": Spec("int64", ("k",), low=0)}, {}, dict(self.sizes))
        known.erased.append(arrays["sample_ids"])
        self.erased.append(arrays["sample_ids"])

    def _of_population(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str})
        self.population(params["population"])
        check_arrays(arrays, {}, {}, {})

    def _drop(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        self._of_population(params, arrays)
        self.populations[params["population"]] = None

    def _read(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str}, {"past": int})
        self.slots(params["population"], [params["past"]] if "past" in params else [])
        check_arrays(arrays, {"nodes": Spec("int64", ("k",), low=0, high="N")}, {}, dict(self.sizes))
        if not self.block.holds(arrays["nodes"]):
            raise Refused("array 'nodes' names a vertex of another host")

    def _write(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str, "operation": Literal["set", "add"], "reset_momentum": bool})
        self.population(params["population"])
        nodes = {"nodes": Spec("int64", ("k",), low=0, high="N")}
        check_arrays(arrays, {"vector": Spec("float32", ("d",))}, nodes, dict(self.sizes))

    def _save(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str}, {"copies": bool})
        self.population(params["population"])
        check_arrays(arrays, {}, {}, {})

    def _restore(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str})
        known = self.population(params["population"])
        rows = Spec("float32", ("n", "d"), finite=False)
        copies = [name.removeprefix("checkpoint-") for name in arrays if name.startswith("checkpoint-")]
        optional = {f"checkpoint-{self.label(label)}": rows for label in copies}
        slots = [name for name in arrays if name in SLOTS]
        optional |= dict.fromkeys(slots, rows)
        known.past.update(int(name.removeprefix("past-")) for name in slots)
        optional |= {"momentum": rows} if known.momentum else {}
        check_arrays(arrays, {"theta": rows}, optional, dict(self.sizes))
        known.labels.update(copies)
        for name, values in arrays.items():
            if not all_finite(values) and not (np.isfinite(values) | np.isnan(values).all(1, keepdims=True)).all():
                raise Refused(f"array '{name}' holds a row with some values that are not finite numbers")

    def _copy(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"source": str, "target": str})
        self.population(params["source"]), self.population(params["target"])
        check_arrays(arrays, {}, {}, {})

    def _checkpoint(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str, "label": str})
        self.label(params["label"])
        self.population(params["population"]).labels.add(params["label"])
        check_arrays(arrays, {}, {}, {})

    def _rewind(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {"population": str, "label": str})
        self.label(params["label"])
        name, label = params["population"], params["label"]
        if label not in self.population(name).labels and f"checkpoint-{label}.{name}" not in self.store:
            raise Refused(f"there is no checkpoint '{label}' of population '{name}'")
        check_arrays(arrays, {}, {}, {})

    def _put_arrays(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {})
        for name, array in arrays.items():
            if not is_free(name):
                raise Refused(f"nothing can be put under the name '{name[:60]}'")
            if array.dtype.kind == "f" and not all_finite(array):
                raise Refused(f"array '{name}' holds a value that is not a finite number")
            self.put[name] = array

    def _nothing(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        check_params(params, {})
        check_arrays(arrays, {}, {}, {})
