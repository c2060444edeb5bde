"""Node programs are declared: a message can name one of these, and no other function.

A program is a function of a block of vertices that hosts run by name (``package.module:function``). Its declaration
says by which operation it is called and what its parameters mean, so that a message is checked as a whole before
anything is carried out (:mod:`fedunlearn.network.messages`). Packages that bring methods of their own (entry points
``fedunlearn.methods``) declare theirs in the same way; functions of other packages are never looked up.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_type_hints

from fedunlearn.errors import UserError

Kind = Literal["rows", "sum", "measure", "walk"]
Size = Callable[[Any, Mapping[str, Any], Mapping[str, int]], int]
"""``size(model, params, samples)``: numbers a vertex; ``samples`` are the lengths of stored arrays by parameter."""
Check = Callable[[Any, str, Mapping[str, Any]], str | None]
"""``check(model, population, params)``: what is wrong with the parameters, or None."""
_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__node_program__"
_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+):([A-Za-z]\w*)")


@dataclass(frozen=True)
class NodeProgram:
    """What a message that names a program may hold.

    Attributes:
        kind: the operation that runs it.
        function: the program itself.
        vectors: parameters that name an array of the message, with its shape: ``d`` parameters of the model, ``N``
            vertices of the network.
        shared: arrays of shape (d,) that come along under these names (walks), each with the parameter that says
            whether it is read: where that is given and not None, the array must be there.
        recipe: the parameter that holds training settings; with a momentum, the population must have momenta.
        samples: parameters that name arrays put on the host before.
        populations: parameters that name another population.
        reads_samples: whether it computes with the training samples of its population.
        size: numbers a vertex; by default d for a sum and one for a measurement.
        check: looks at what types do not say.
        types: type of every parameter, and whether it must be there.
    """

    kind: Kind
    function: Callable[..., Any]
    vectors: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    samples: Sequence[str] = ()
    populations: Sequence[str] = ()
    size: Size | None = None
    check: Check | None = None
    reads_samples: bool = True
    recipe: str | None = None

    @property
    def types(self) -> Mapping[str, tuple[Any, bool]]:
        """Type of every keyword parameter, and whether it must be given."""
        return _types(self.function)


@lru_cache(maxsize=256)
def _types(function: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    keywords = (p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
    return {p.name: (hints.get(p.name, Any), p.default is inspect.Parameter.empty) for p in keywords}


def node_program(
    kind: Kind, *, vectors: Mapping[str, str] | None = None, shared: Mapping[str, str] | None = None,
    samples: Sequence[str] = (), populations: Sequence[str] = (), size: Size | None = None, check: Check | None = None,
    reads_samples: bool = True, recipe: str | None = None,
) -> Callable[[_F], _F]:  # fmt: skip
    """Declare a function as a node program; see :class:`NodeProgram` for the arguments."""

    def declare(function: _F) -> _F:
        made = NodeProgram(
            kind, function, vectors or {}, shared or {}, samples, populations, size, check, reads_samples, recipe
        )
        setattr(function, _MARK, made)
        return function

    return declare


@lru_cache(maxsize=256)
def declared(name: str) -> NodeProgram:
    """Return the node program ``package.module:function``; UserError if there is none that was declared there.

    Only modules of this package, and of packages that bring a method, are imported.
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) and len(name) <= 200 else None
    if match is not None and match[1].partition(".")[0] in _packages():
        try:
            function = getattr(importlib.import_module(match[1]), match[2], None)
        except ImportError:
            function = None
        made = getattr(function, _MARK, None)
        if isinstance(made, NodeProgram) and made.function.__module__ == match[1]:
            return made
    raise UserError(f"'{str(name)[:80]!s}' is not a declared node program")


@lru_cache(maxsize=1)
def _packages() -> frozenset[str]:
    values = (entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group="fedunlearn.methods"))
    return frozenset({__name__.partition(".")[0], *values})
