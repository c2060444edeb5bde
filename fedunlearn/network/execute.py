"""Running one command on a range of vertices: the same function inside a worker process and without workers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fedunlearn.network.block import Block
from fedunlearn.network.mixing import mix_columns
from fedunlearn.network.reduction import TreeSum

Command = dict[str, Any]


def program(name: str) -> Callable[..., Any]:
    """Return the node program ``module:function``; only programs of this package can be named."""
    module, _, function = name.partition(":")
    if not module.startswith("fedunlearn."):
        raise ValueError(f"program {name!r} is not part of fedunlearn")
    return getattr(importlib.import_module(module), function)


def execute(block: Block, command: Command) -> dict[str, Any]:
    """Carry out a command on the vertices ``command['range']`` of a block.

    Kinds: ``rows`` (a program changes rows in place), ``sum`` (a program returns a float64 vector a vertex; the
    canonical partial sums are written to the array ``command['out']``), ``measure`` (a program returns numbers a
    vertex), ``mix`` (columns of all rows are mixed), ``walk`` (a program carries the array ``vector.token`` over the
    vertices of a route, one after the other).
    """
    if command.get("generation", 0) != block.generation:
        block.store.forget_handles()
        block.generation = command["generation"]
    kind, population = command["kind"], command["population"]
    if kind == "mix":
        mix_columns(block, population, *command["range"])
        return {}
    function, params = program(command["program"]), command["params"]
    if kind == "walk":
        token = block.store["vector.token"]
        for hop, node in command["route"]:
            token[...] = function(block, population, node, hop, np.array(token), **params)
        return {}
    nodes = block.nodes(population, *command["range"])
    if command.get("only") is not None:
        chosen = set(command["only"])
        nodes = [n for n in nodes if n in chosen]
    if kind == "rows":
        function(block, population, nodes, **params)
        return {}
    if kind == "measure":
        return {"values": [[n, *map(float, function(block, population, n, **params))] for n in nodes]}
    if kind == "sum":
        present = block.alive(population).copy()
        if command.get("only") is not None:
            mask = np.zeros_like(present)
            mask[command["only"]] = True
            present &= mask
        total = TreeSum(present)
        for node in nodes:
            total.add(0, node, np.asarray(function(block, population, node, **params), dtype=np.float64))
        names, sums = total.partials()
        if len(names):
            block.store[command["out"]][: len(names)] = sums
        return {"names": names.tolist()}
    raise ValueError(f"unknown command kind {kind!r}")
