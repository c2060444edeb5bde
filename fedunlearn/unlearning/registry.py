"""The methods a user can name: one file each; others add theirs by the entry point ``fedunlearn.methods``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.settings import Settings

if TYPE_CHECKING:
    from fedunlearn.unlearning.base import Plan

_BUILT_IN = {
    "retrain": "fedunlearn.unlearning.exact.retrain",
    "finetune": "fedunlearn.unlearning.approximate.finetune",
    "newton": "fedunlearn.unlearning.certified.newton",
    "rr-du": "fedunlearn.unlearning.certified.rr_du",
    "rewind": "fedunlearn.unlearning.certified.rewind",
    "ddp": "fedunlearn.unlearning.certified.ddp",
    "dp-sgd": "fedunlearn.unlearning.certified.dp_sgd",
}


@dataclass(frozen=True)
class MethodInfo:
    """One line of ``fedunlearn methods``. A method's module defines it as ``METHOD``.

    ``levels`` and ``networks`` say where it is defined; everywhere else it is refused before anything is trained, with
    the sentence ``not_defined``. ``under_faults`` says why it is not defined on a network with faults; empty: it is.
    """

    name: str
    summary: str
    levels: tuple[str, ...]
    settings: type[Settings]
    implementation: type[Any]
    needs: str = ""
    certifies: str = "nothing"
    enforces: str = ""
    networks: tuple[str, ...] = ("centralized", "federated", "decentralized")
    not_defined: str = ""
    under_faults: str = "it does not say what it does when nodes are away"


def _modules() -> dict[str, str]:
    found = {e.name: e.value for e in entry_points(group="fedunlearn.methods")}
    return {**found, **_BUILT_IN}


@lru_cache
def method(name: str) -> MethodInfo:
    """Return a method by name; raises UserError for an unknown one."""
    modules = _modules()
    if name not in modules:
        raise UserError(
            f"unlearning.method = '{name[:60]}' is not a known method{nearest(name, modules)} "
            f"(allowed: {listed(sorted(modules))})"
        )
    info: MethodInfo = importlib.import_module(modules[name]).METHOD
    return info


def methods() -> dict[str, MethodInfo]:
    """Return all methods by name."""
    return {name: method(name) for name in sorted(_modules())}


def check_defined(info: MethodInfo, plan: Plan) -> None:
    """Raise UserError where a method is not defined: for the level of a request, or for the kind of network."""
    why = f": {info.not_defined}" if info.not_defined else ""
    for request in plan.requests:
        if request.level not in info.levels:
            raise UserError(
                f"{request.where}.level = '{request.level}' is not defined for '{info.name}'{why} (allowed: "
                f"{listed(info.levels)})"
            )
    if plan.faults and info.under_faults:
        defined = sorted(name for name, other in methods().items() if not other.under_faults)
        raise UserError(
            f"unlearning.method = '{info.name}' is not defined with [faults]: {info.under_faults} (allowed with "
            f"faults: {listed(defined)})"
        )
    if plan.network not in info.networks:
        raise UserError(
            f"unlearning.method = '{info.name}' is not defined in a {plan.network} setting{why} (allowed: "
            f"{listed(info.networks)})"
        )


def settings_for(name: str) -> type[Settings]:
    """Return the settings class of a method; raises UserError for an unknown one."""
    return method(name).settings
