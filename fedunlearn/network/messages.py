"""What a message between the conductor and a host may hold, checked as a whole before anything of it is carried out.

For every operation the tables below say which parameters and arrays it has, of which type, shape and range, and which
floats must be finite. Nothing else may be in a message. A host checks requests at its door (:func:`check_requests`),
the conductor checks replies (:func:`check_reply`); whoever is refused reads one sentence, and no state has changed.

NaN is legitimate in few places: rows of vertices that left are NaN in what ``save`` returns and ``restore`` takes, what
is read or added up after a training diverged is found by whoever asked, and ``measure`` has NaN for absent vertices.
"""

from __future__ import annotations

import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedunlearn.data.settings import DataSettings
from fedunlearn.errors import UserError
from fedunlearn.network.block import Block
from fedunlearn.network.declared import NodeProgram, declared
from fedunlearn.network.transport import Reply, Request
from fedunlearn.paths import is_plain_name

_LARGEST = 2**63
_MOST_SLOTS = 64
_SLOTS = frozenset(f"past-{slot}" for slot in range(_MOST_SLOTS))
"""Names of the rows of past rounds that a host keeps for late messages: at most as many as ``faults.max_delay``."""
_KINDS_OF_STORE = frozenset(
    ["theta", "momentum", "alive", "keep", "seed", "halo", "weights", "vector", "partial", "numbers", "checkpoint",
     "past", "probabilities", "points", "inputs", "labels", "sample_ids", "offsets", "block", "limits"]
)  # fmt: skip
"""First words of the names of a host's own arrays and tables: nothing can be put under such a name."""


class _Refused(Exception):
    """What is wrong with a part of a message."""


# --- arrays --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What an array must be: its type, its shape, and what its entries are.

    In a shape ``n`` is the number of vertices of the block, ``N`` of the network, ``d`` of parameters; a number is
    itself; any other letter stands for any length, the same in the whole message. ``low <= entry < high`` where given
    (``high`` may be a letter).
    """

    dtype: str
    shape: tuple[str | int, ...]
    finite: bool = True
    low: int | None = None
    high: str | int | None = None
    rising: bool = False

    def check(self, name: str, array: np.ndarray, sizes: dict[str, int]) -> None:
        """Raise _Refused if an array is not like that; binds the letters that ``sizes`` does not hold yet."""
        if array.dtype.name != self.dtype or not array.dtype.isnative:
            raise _Refused(f"array '{name}' is of type {array.dtype}, not {self.dtype}")
        if array.ndim != len(self.shape):
            raise _Refused(f"array '{name}' has shape {array.shape}, not ({', '.join(map(str, self.shape))})")
        for length, letter in zip(array.shape, self.shape):
            if length != (letter if isinstance(letter, int) else sizes.setdefault(letter, length)):
                raise _Refused(f"array '{name}' has shape {array.shape}, not ({', '.join(map(str, self.shape))})")
        if self.finite and array.dtype.kind == "f" and not all_finite(array):
            raise _Refused(f"array '{name}' holds a value that is not a finite number")
        if not array.size:
            return
        if self.low is not None and array.min() < self.low:
            raise _Refused(f"array '{name}' holds {array.min()}, less than {self.low}")
        if self.high is not None:
            bound = self.high if isinstance(self.high, int) else sizes[self.high]
            if array.max() >= bound:
                raise _Refused(f"array '{name}' holds {array.max()}, not less than {bound}")
        if self.rising and (array[1:] <= array[:-1]).any():
            raise _Refused(f"array '{name}' is not strictly increasing")


def all_finite(array: np.ndarray) -> bool:
    """Return whether all entries are finite; a sum tells in one pass, and only a sum that is not is looked at again."""
    if array.size < 64:
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(array.sum(dtype=array.dtype)) or bool(np.isfinite(array).all())


def _arrays(
    arrays: Mapping[str, np.ndarray], needed: Mapping[str, Spec], optional: Mapping[str, Spec], sizes: dict[str, int]
) -> None:
    missing = [name for name in needed if name not in arrays]
    unknown = [name for name in arrays if name not in needed and name not in optional]
    if missing or unknown:
        raise _Refused(f"it lacks the array '{missing[0]}'" if missing else f"it has no array '{unknown[0][:60]}'")
    for name, array in arrays.items():
        (needed.get(name) or optional[name]).check(name, array, sizes)


# --- parameters ----------------------------------------------------------------------------------------------------


def fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of an annotated type; whole numbers are floats too, floats are finite."""
    if kind is Any:
        return True
    if kind is None or kind is type(None):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e308  # no NaN either
    if kind is str:
        return isinstance(value, str) and len(value) <= 10_000
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str | int) and value in inner
    if origin is list:
        if inner[0] is int and isinstance(value, list):  # lists of ids are long
            return all(type(each) is int for each in value) and all(abs(each) < 2**63 for each in value)
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    return False


def _params(params: Any, kinds: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> None:
    optional = optional or {}
    if not isinstance(params, dict):
        raise _Refused("its parameters are not a table")
    for name in kinds:
        if name not in params:
            raise _Refused(f"it lacks the parameter '{name}'")
    for name, value in params.items():
        if name not in kinds and name not in optional:
            raise _Refused(f"it has no parameter '{str(name)[:60]}'")
        kind = kinds[name] if name in kinds else optional[name]
        if not fits(value, kind):
            raise _Refused(f"parameter '{name}' = {repr(value)[:60]} is of the wrong kind")


def _at_least(params: Mapping[str, Any], **least: int) -> None:
    for name, bound in least.items():
        value = params.get(name)
        if value is not None and not bound <= value < _LARGEST:
            raise _Refused(f"parameter '{name}' = {str(value)[:30]} is out of range")


def _ids(name: str, values: Sequence[int] | None, num_nodes: int) -> None:
    """Refuse a list of vertices that is not strictly increasing or names vertices that do not exist."""
    if values is None:
        return
    ids = np.asarray(values, dtype=np.int64)
    if len(ids) and (ids[0] < 0 or ids[-1] >= num_nodes or (ids[1:] <= ids[:-1]).any()):
        raise _Refused(f"parameter '{name}' is not a list of different vertices in ascending order")


# --- requests ------------------------------------------------------------------------------------------------------


@dataclass
class _Population:
    """What the door knows of a population after the requests that come before in the same message."""

    momentum: bool
    mixes: bool
    halo: int
    labels: set[str] = field(default_factory=set)
    past: set[int] = field(default_factory=set)
    deleted: NDArray[np.int64] | None = None
    """What it was made without, where an earlier request of the message makes it."""
    erased: list[NDArray[np.int64]] = field(default_factory=list)


class Door:
    """Checks the requests of one message to a host, in their order; each as if those before it were carried out."""

    def __init__(self, block: Block) -> None:
        self.block, self.store, self.model = block, block.store, block.model
        self.own = block.ids
        self.sizes = {"n": len(self.own), "N": block.num_nodes, "d": block.model.dim}
        self._populations: dict[str, _Population | None] = {}
        self._put: dict[str, np.ndarray] = {}
        self._erased: list[NDArray[np.int64]] = []

    def check(self, request: Request) -> None:
        """Raise UserError, one sentence, if a request is not one that a host may be sent."""
        try:
            rule = _RULES.get(request.op) if isinstance(request.op, str) else None
            if rule is None:
                raise UserError(f"a host was asked for the unknown operation '{str(request.op)[:60]}'")
            rule(self, request.params, request.arrays)
        except _Refused as error:
            raise UserError(f"a host was sent a malformed '{request.op}': {error}") from None

    def population(self, name: Any) -> _Population:
        """Return what is known of a population that must exist."""
        found = self._known(name)
        if found is None:
            raise _Refused(f"there is no population '{str(name)[:60]}'")
        return found

    def _known(self, name: Any) -> _Population | None:
        if not (is_plain_name(name) and "." not in name):
            raise _Refused(f"'{str(name)[:60]}' cannot be the name of a population")
        if name not in self._populations:
            there = f"theta.{name}" in self.store
            halo = len(self.store[f"halo.{name}"]) if there and f"halo.{name}" in self.store else 0
            mixes, momentum = f"weights.{name}.data" in self.store, f"momentum.{name}" in self.store
            self._populations[name] = _Population(momentum, mixes, halo) if there else None
        return self._populations[name]

    # --- one rule an operation --------------------------------------------------------------------------------------

    def _population(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"name": str, "momentum": bool, "seed": int})
        _at_least(params, seed=0)
        self._known(params["name"])
        alive, deleted = Spec("bool", ("N",)), Spec("int64", ("k",), low=0)
        start, rows = {"start": Spec("float32", ("d",))}, {"rows": Spec("float32", ("n", "d"))}
        first = rows if "rows" in arrays else start
        _arrays(arrays, {**first, "alive": alive, "deleted": deleted}, {**start, **rows}, dict(self.sizes))
        self._populations[params["name"]] = _Population(params["momentum"], False, 0, deleted=arrays["deleted"])

    def _topology(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str}, {"past": list[int]})
        past = params.get("past", [])
        known = self._slots(params["population"], past)
        sizes = {**self.sizes, "n+1": len(self.own) + 1, "columns": (len(past) + 1) * self.sizes["N"]}
        needed = {
            "indptr": Spec("int64", ("n+1",), low=0),
            "indices": Spec("int64", ("k",), low=0, high="columns"),
            "data": Spec("float64", ("k",), low=0),
        }
        _arrays(arrays, needed, {}, sizes)
        indptr, weights = arrays["indptr"], arrays["data"]
        if indptr[0] != 0 or indptr[-1] != sizes["k"] or (np.diff(indptr) < 0).any():
            raise _Refused("array 'indptr' does not cut 'indices' into rows")
        before = np.concatenate([[0.0], np.cumsum(weights)])
        totals, filled = np.diff(before[indptr]), np.diff(indptr) > 0
        if (np.abs(totals[filled] - 1.0) > 1e-6).any():
            raise _Refused("a row of the mixing matrix does not add up to one")
        outside = np.unique(arrays["indices"])
        known.halo, known.mixes = int((~np.isin(outside % self.sizes["N"], self.own)).sum()), True

    def _mix(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str}, {"keep": int})
        known = self.population(params["population"])
        if "keep" in params:
            if not 0 <= params["keep"] < _MOST_SLOTS:
                raise _Refused(f"parameter 'keep' = {str(params['keep'])[:30]} is out of range")
            known.past.add(params["keep"])
        if not known.mixes:
            raise _Refused(f"population '{params['population']}' has no mixing matrix")
        halo = {"halo": Spec("float32", (known.halo, "d"))}
        _arrays(arrays, halo if known.halo else {}, halo, dict(self.sizes))

    def _adopt(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str})
        self.population(params["population"])
        some = {name: Spec("int64", (letter,), low=0, high="N", rising=True)
                for name, letter in (("nodes", "k"), ("restarts", "r"), ("forget", "f"), ("crashed", "c"))}  # fmt: skip
        needed = {**some, "sources": Spec("int64", ("k",), low=0, high="N"), "start": Spec("float32", ("d",))}
        foreign = np.setdiff1d(arrays["sources"], self.own) if "sources" in arrays else ()
        halo = {"halo": Spec("float32", (len(foreign), "d"))}
        _arrays(arrays, {**needed, **(halo if len(foreign) else {})}, halo, dict(self.sizes))

    def _leave(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str})
        self.population(params["population"])
        _arrays(arrays, {"nodes": Spec("int64", ("k",), low=0, high="N")}, {}, dict(self.sizes))

    def _erase(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str})
        known = self.population(params["population"])
        _arrays(arrays, {"sample_ids": Spec("int64", ("k",), low=0)}, {}, dict(self.sizes))
        known.erased.append(arrays["sample_ids"])
        self._erased.append(arrays["sample_ids"])

    def _of_population(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str})
        self.population(params["population"])
        _arrays(arrays, {}, {}, {})

    def _drop(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        self._of_population(params, arrays)
        self._populations[params["population"]] = None

    def _read(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str}, {"past": int})
        self._slots(params["population"], [params["past"]] if "past" in params else [])
        _arrays(arrays, {"nodes": Spec("int64", ("k",))}, {}, dict(self.sizes))
        if not np.isin(arrays["nodes"], self.own).all():
            raise _Refused("array 'nodes' names a vertex of another host")

    def _write(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str, "operation": Literal["set", "add"], "reset_momentum": bool})
        self.population(params["population"])
        nodes = {"nodes": Spec("int64", ("k",), low=0, high="N")}
        _arrays(arrays, {"vector": Spec("float32", ("d",))}, nodes, dict(self.sizes))

    def _save(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str}, {"copies": bool})
        self.population(params["population"])
        _arrays(arrays, {}, {}, {})

    def _restore(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str})
        known = self.population(params["population"])
        rows = Spec("float32", ("n", "d"), finite=False)
        copies = [name.removeprefix("checkpoint-") for name in arrays if name.startswith("checkpoint-")]
        optional = {f"checkpoint-{self._label(label)}": rows for label in copies}
        slots = [name for name in arrays if name in _SLOTS]
        optional |= dict.fromkeys(slots, rows)
        known.past.update(int(name.removeprefix("past-")) for name in slots)
        optional |= {"momentum": rows} if known.momentum else {}
        _arrays(arrays, {"theta": rows}, optional, dict(self.sizes))
        known.labels.update(copies)
        for name, values in arrays.items():
            if not all_finite(values) and not (np.isfinite(values) | np.isnan(values).all(1, keepdims=True)).all():
                raise _Refused(f"array '{name}' holds a row with some values that are not finite numbers")

    def _copy(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"source": str, "target": str})
        self.population(params["source"]), self.population(params["target"])
        _arrays(arrays, {}, {}, {})

    def _checkpoint(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str, "label": str})
        self._label(params["label"])
        self.population(params["population"]).labels.add(params["label"])
        _arrays(arrays, {}, {}, {})

    def _rewind(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"population": str, "label": str})
        self._label(params["label"])
        name, label = params["population"], params["label"]
        if label not in self.population(name).labels and f"checkpoint-{label}.{name}" not in self.store:
            raise _Refused(f"there is no checkpoint '{label}' of population '{name}'")
        _arrays(arrays, {}, {}, {})

    def _slots(self, name: str, past: Sequence[int]) -> _Population:
        known = self.population(name)
        for slot in past:
            if slot not in known.past and not (0 <= slot < _MOST_SLOTS and f"past-{slot}.{name}" in self.store):
                raise _Refused(f"population '{name}' keeps no past rows in slot {str(slot)[:30]}")
        return known

    @staticmethod
    def _label(label: str) -> str:
        if not (is_plain_name(label) and "." not in label):
            raise _Refused(f"'{label[:60]}' cannot be a label")
        return label

    def _put_arrays(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {})
        for name, array in arrays.items():
            if not is_plain_name(name) or name.replace("-", ".").partition(".")[0] in _KINDS_OF_STORE:
                raise _Refused(f"nothing can be put under the name '{name[:60]}'")
            if array.dtype.kind == "f" and not all_finite(array):
                raise _Refused(f"array '{name}' holds a value that is not a finite number")
            self._put[name] = array

    def _nothing(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {})
        _arrays(arrays, {}, {}, {})

    # --- programs ---------------------------------------------------------------------------------------------------

    def _rows(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {**_PROGRAM, "grain": int}, {"check": bool})
        self._runs("rows", params, arrays)

    def _sum(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {**_PROGRAM, "dim": int})
        self._runs("sum", params, arrays, params["dim"])

    def _measure(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {**_PROGRAM, "width": int}, {"grain": int})
        self._runs("measure", params, arrays, params["width"])

    def _walk(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {**_CALL, "route": list[list[int]]})
        for stop in params["route"]:
            if len(stop) != 2 or stop[0] < 0 or not (self.own == stop[1]).any():
                raise _Refused("parameter 'route' names a stop that is not a hop and a vertex of this host")
        self._runs("walk", {**params, "only": None}, arrays)

    def _rounds(self, params: Any, arrays: Mapping[str, np.ndarray]) -> None:
        _params(params, {"rounds": list[int], "work": list[dict[str, Any]]})
        rounds = params["rounds"]
        if len(rounds) != 2 or not 0 <= rounds[0] <= rounds[1] < _LARGEST:
            raise _Refused("parameter 'rounds' is not a first and a last round")
        _arrays(arrays, {}, {}, {})
        names = []
        for work in params["work"]:
            _params(work, {**_PROGRAM, "grain": int, "mix": bool})
            known = self.population(work["population"])
            if work["mix"] and (not known.mixes or known.halo):
                raise _Refused(f"population '{work['population']}' cannot be mixed on this host alone")
            if not isinstance(work["params"], dict) or "round_" in work["params"]:
                raise _Refused("parameter 'round_' is counted by the host")
            self._runs("rows", {**work, "params": {**work["params"], "round_": rounds[0]}}, {})
            names.append(work["population"])
        if not names or len(set(names)) < len(names):
            raise _Refused("parameter 'work' does not name different populations")

    def _runs(
        self, kind: str, params: Mapping[str, Any], arrays: Mapping[str, np.ndarray], numbers: int | None = None
    ) -> None:
        """Check what the operations that run a program have in common."""
        program = self._program(kind, params["program"])
        self.population(params["population"])
        if program.reads_samples:
            self._nothing_erased(params["population"])
        _ids("only", params["only"], self.sizes["N"])
        _at_least(params, grain=1)
        given = params["params"]
        _params(
            given,
            {name: hint for name, (hint, needed) in program.types.items() if needed},
            {name: hint for name, (hint, needed) in program.types.items() if not needed},
        )
        needed, optional = {}, dict.fromkeys(program.shared, _VECTOR)
        for name, shape in program.vectors.items():
            if given.get(name) is not None:
                if not is_plain_name(given[name]):
                    raise _Refused(f"parameter '{name}' names no array")
                needed[given[name]] = Spec("float64", (shape,))
        if kind == "walk":
            tokens = arrays.get("token")
            needed["token"] = Spec("float64", ("d",) if tokens is None or tokens.ndim == 1 else ("k", "d"))
        _arrays(arrays, needed, optional, dict(self.sizes))
        lengths = {name: self._samples(name, given[name]) for name in program.samples}
        if len(set(lengths.values())) > 1:
            raise _Refused(f"the arrays of parameters {', '.join(lengths)} are not of one length")
        for name in program.populations:
            self.population(given[name])
        if program.check is not None:
            fault = program.check(self.model, params["population"], given)
            if fault is not None:
                raise _Refused(fault)
        if numbers is not None:
            default = self.sizes["d"] if kind == "sum" else 1
            size = default if program.size is None else program.size(self.model, given, lengths)
            if numbers != size:
                raise _Refused(f"the program gives {size} numbers a vertex, not {numbers}")

    def _nothing_erased(self, name: str) -> None:
        """Refuse to compute with a population that keeps samples which were erased on this host for another one."""
        known, ids = self.population(name), self.store["sample_ids"]
        gone = self.store["labels"] < 0
        for erased in self._erased:
            gone = gone | np.isin(ids, erased)
        if not gone.any():
            return
        kept = self.store[f"keep.{name}"] if known.deleted is None else ~np.isin(ids, known.deleted)
        for erased in known.erased:
            kept = kept & ~np.isin(ids, erased)
        if (gone & kept).any():
            raise _Refused(f"population '{name}' still counts on samples that were erased")

    @staticmethod
    def _program(kind: str, name: str) -> NodeProgram:
        try:
            program = declared(name)
        except UserError as error:
            raise _Refused(str(error)) from None
        if program.kind != kind:
            raise _Refused(f"'{name}' is a program of '{program.kind}'")
        return program

    def _samples(self, parameter: str, name: Any) -> int:
        """Return the length of an array that was put on the host; samples must be such as the model takes."""
        fine = is_plain_name(name) and name.replace("-", ".").partition(".")[0] not in _KINDS_OF_STORE
        if not fine or (name not in self._put and name not in self.store):
            raise _Refused(f"nothing was put on this host under the name '{str(name)[:60]}'")
        array = self._put[name] if name in self._put else self.store[name]
        if parameter == "labels":
            Spec("int64", ("k",), low=0, high=self.model.num_classes).check(name, array, {})
        elif array.dtype not in (np.uint8, np.float32) or array.shape[1:] != tuple(self.model.input_shape):
            raise _Refused(f"array '{name}' does not hold samples of shape {tuple(self.model.input_shape)}")
        return len(array)


_VECTOR = Spec("float64", ("d",))
_CALL: dict[str, Any] = {"program": str, "params": dict[str, Any], "population": str}
_PROGRAM: dict[str, Any] = {**_CALL, "only": list[int] | None}
_RULES: dict[str, Callable[[Door, Any, Mapping[str, np.ndarray]], None]] = {
    "population": Door._population, "topology": Door._topology, "rounds": Door._rounds, "rows": Door._rows,
    "sum": Door._sum, "measure": Door._measure, "walk": Door._walk, "checkpoint": Door._checkpoint,
    "rewind": Door._rewind, "mix": Door._mix, "export": Door._read, "read": Door._read, "write": Door._write,
    "save": Door._save, "restore": Door._restore, "put": Door._put_arrays, "copy": Door._copy,
    "adopt": Door._adopt, "forget": Door._of_population, "leave": Door._leave, "erase": Door._erase, "wipe": Door._nothing, "drop": Door._drop, "close": Door._nothing,
}  # fmt: skip


def check_requests(block: Block, request: Request) -> None:
    """Check a request, and those that come before it in its message, before any of them is carried out.

    Raises:
        UserError: one sentence, for the first that is not what a host may be sent.
    """
    door = Door(block)
    for each in request.before:
        if each.before:
            raise UserError(f"a host was sent a malformed '{each.op}': requests do not stand within each other")
        door.check(each)
    door.check(request)


# --- set-up --------------------------------------------------------------------------------------------------------

_SETUP = {
    "block": list[int], "num_nodes": int, "workers": int, "device": Literal["cpu", "cuda"], "room": int | None,
    "scratch": str | None, "dataset": str, "data": dict[str, Any] | None, "model": dict[str, Any],
    "features": dict[str, Any],
}  # fmt: skip
_MODEL = {
    "name": str, "num_classes": int, "input_shape": list[int], "bias": bool, "activation": Literal["relu", "smelu"],
    "smelu_width": float, "hidden": list[int], "checkpoint": str | None, "checkpoint_sha256": str | None,
}  # fmt: skip
_FEATURES = {"kind": Literal["raw", "unit", "frozen"], "input_shape": list[int], "extractor": dict[str, Any] | None}
_HASHES = {"weights_sha256": str, "training_rows_sha256": str}


def check_setup(params: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Check what a host is set up with; UserError, one sentence, if it is not what a conductor may send.

    Whether the data have so many vertices, and the content hashes agree, is checked where they are read.
    """
    try:
        _params(params, _SETUP, {"part": str})
        _at_least(params, num_nodes=1, workers=0, room=0)
        if params["workers"] > 16 * (os.cpu_count() or 1) + 64:
            raise _Refused(f"parameter 'workers' = {params['workers']} is more than this machine could start")
        low, high = params["block"] if len(params["block"]) == 2 else (1, 0)
        if not 0 <= low <= high <= params["num_nodes"]:
            raise _Refused("parameter 'block' is not a range of vertices")
        if params["data"] is not None:
            try:
                DataSettings(**params["data"])
            except (ValidationError, TypeError):
                raise _Refused("parameter 'data' does not describe a data set") from None
        _model(params["model"])
        features = params["features"]
        frozen = isinstance(features, dict) and features.get("extractor") is not None
        _params(features, {**_FEATURES, **(_HASHES if frozen else {})})
        _shape(features["input_shape"])
        needed: dict[str, Spec] = {}
        if frozen:
            _model(features["extractor"])
            needed = {
                "features.weights": Spec("float32", ("p",)), "features.spread": Spec("float64", ("q", "r")),
                "features.training_rows": Spec("int64", ("k",), low=0),
            }  # fmt: skip
        nodes = params["num_nodes"]
        _arrays(arrays, needed, {"order": Spec("int64", ("N",), low=0, high="N")}, {"N": nodes})
        if "order" in arrays and len(np.unique(arrays["order"])) < nodes:
            raise _Refused("array 'order' names a vertex twice")
    except _Refused as error:
        raise UserError(f"a host was sent a malformed 'setup': {error}") from None


def _model(spec: Any) -> None:
    _params(spec, _MODEL)
    _at_least(spec, num_classes=1)
    _shape(spec["input_shape"])
    if spec["smelu_width"] <= 0 or any(width < 1 for width in spec["hidden"]):
        raise _Refused("parameter 'model' has a width that is not above zero")


def _shape(shape: Sequence[int]) -> None:
    if not 1 <= len(shape) <= 3 or any(not 1 <= side < 2**31 for side in shape):
        raise _Refused("parameter 'input_shape' is not the shape of a sample")


# --- replies -------------------------------------------------------------------------------------------------------


def check_reply(
    request: Request, reply: Reply, host: int, own: NDArray[np.int64], num_nodes: int, dim: int, low: int | None = None
) -> None:
    """Check a host's answer to a request, and its answers to the requests before it, before anything is made of them.

    Args:
        request: what was sent.
        reply: what came back.
        host: number of the host, for the sentence.
        own: the vertices it carries, in the session's order.
        num_nodes: vertices of the network.
        dim: parameters of the model.
        low: position of its first vertex in the session's order; by default, that of ids, the vertex itself.

    Raises:
        UserError: one sentence, where a reply is not one to this request.
    """
    if len(reply.before) != len(request.before):
        raise UserError(f"host {host} gave {len(reply.before)} answers to {len(request.before)} requests")
    for asked, answered in zip((*request.before, request), (*reply.before, reply)):
        sizes = {"n": len(own), "N": num_nodes, "d": dim, "low": int(own[0]) if low is None and len(own) else low or 0}
        try:
            _REPLIES.get(asked.op, _empty)(asked, answered, own, sizes)
        except _Refused as error:
            raise UserError(f"host {host} gave a malformed answer to '{asked.op}': {error}") from None


def _empty(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {})
    _arrays(reply.arrays, {}, {}, sizes)


def _sick(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {"sick": int | None})
    _arrays(reply.arrays, {}, {}, sizes)
    if reply.params["sick"] is not None and reply.params["sick"] not in own:
        raise _Refused("it tells of a vertex of another host")


def _sick_of_rounds(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {"sick": dict[str, Any]})
    _arrays(reply.arrays, {}, {}, sizes)
    found, (first, last) = reply.params["sick"], request.params["rounds"]
    if set(found) != {work["population"] for work in request.params["work"]}:
        raise _Refused("it does not tell of the populations that were asked for")
    for pair in found.values():
        if pair is not None and not (
            fits(pair, list[int]) and len(pair) == 2 and first <= pair[0] <= last and pair[1] in own
        ):
            raise _Refused("it tells of a round or a vertex that was not asked for")


def _erased(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {"erased": int})
    _at_least(reply.params, erased=0)
    _arrays(reply.arrays, {}, {}, sizes)


def _sums(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {})
    if not len(reply.arrays.get("keys", ())):  # no vertex of this host takes part
        _arrays(reply.arrays, {"keys": Spec("int64", (0, 2)), "sums": Spec("float64", (0, "any"))}, {}, sizes)
        return
    width = request.params["dim"]
    needed = {"keys": Spec("int64", ("k", 2), low=0), "sums": Spec("float64", ("k", width), finite=False)}
    _arrays(reply.arrays, needed, {}, sizes)
    depth = max(1, sizes["N"] - 1).bit_length()
    seen = set()
    for level, index in reply.arrays["keys"].tolist():
        low, high = index << min(level, 64), (index + 1) << min(level, 64)
        if level > depth or low >= sizes["low"] + len(own) or high <= sizes["low"] or (level, index) in seen:
            raise _Refused(f"it holds a sum over ({level}, {index}), which this host has no part in")
        seen.add((level, index))


def _measured(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {})
    _arrays(reply.arrays, {"values": Spec("float64", ("n", request.params["width"]), finite=False)}, {}, sizes)


def _token(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {})
    _arrays(reply.arrays, {"token": Spec("float64", request.arrays["token"].shape, finite=False)}, {}, sizes)


def _read_rows(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {})
    rows = Spec("float32", (len(request.arrays["nodes"]), "d"), finite=request.op == "export")
    _arrays(reply.arrays, {"rows": rows}, {}, sizes)


def _saved(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    _params(reply.params, {})
    rows = Spec("float32", ("n", "d"), finite=False)
    copies = [name for name in reply.arrays if name.startswith("checkpoint-") or name in _SLOTS]
    copies = copies if request.params.get("copies") else []
    _arrays(reply.arrays, {"theta": rows}, {"momentum": rows, **dict.fromkeys(copies, rows)}, sizes)


_REPLIES: dict[str, Callable[[Request, Reply, NDArray[np.int64], dict[str, int]], None]] = {
    "rows": _sick, "rounds": _sick_of_rounds, "erase": _erased, "sum": _sums, "measure": _measured, "walk": _token,
    "read": _read_rows, "export": _read_rows, "save": _saved,
}  # fmt: skip
