"""Running one command on a range of vertices: the same function inside a worker process and without workers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from fedunlearn.network.block import Block
from fedunlearn.network.declared import declared
from fedunlearn.network.mixing import mix_columns
from fedunlearn.network.programs import first_sick
from fedunlearn.network.reduction import TreeSum

Command = dict[str, Any]


def program(name: str) -> Callable[..., Any]:
    """Return the declared node program ``module:function``; UserError if there is none of that name."""
    return declared(name).function


def execute(block: Block, command: Command) -> dict[str, Any]:
    """Carry out a command on the vertices at the positions ``command['range']`` of the session's order.

    Kinds: ``rows`` (a program changes rows in place; with ``command['check']`` the answer names the first vertex that
    holds NaN or infinity then), ``sum`` (a program returns a float64 vector a vertex; the
    canonical partial sums are written to the array ``command['out']``), ``measure`` (a program returns numbers
    (vertices, width) for all vertices of the range; they are written to the array ``numbers-<width>.<population>``),
    ``mix`` (columns of all rows are mixed), ``walk`` (a program carries the array ``vector.token`` over the vertices
    of a route, one after the other).
    """
    block.store.release()  # what the command before looked at on disk
    if command.get("generation", 0) != block.generation:
        block.store.forget_handles()
        block.generation = command["generation"]
    kind, population = command["kind"], command["population"]
    if kind == "mix":
        mix_columns(block, population, *command["range"], keep=command.get("keep"))
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
        return {"sick": first_sick(block, population, nodes)} if command.get("check") else {}
    if kind == "measure":
        if nodes:
            room = block.store[f"numbers-{command['width']}.{population}"]
            numbers = np.asarray(function(block, population, nodes, **params), dtype=np.float64)
            room[block.places(nodes)] = numbers.reshape(len(nodes), -1)
        return {}
    if kind == "sum":
        present = block.alive(population).copy()
        if command.get("only") is not None:
            mask = np.zeros_like(present)
            mask[command["only"]] = True
            present &= mask
        total = TreeSum(present[block.order])
        if inspect.isgeneratorfunction(function):  # a program for all vertices at once
            vectors = function(block, population, nodes, **params)
        else:
            vectors = (function(block, population, node, **params) for node in nodes)
        for node, vector in zip(nodes, vectors):
            total.add(0, block.position(node), np.asarray(vector, dtype=np.float64))
        names, sums = total.partials()
        if len(names):
            block.store[command["out"]][: len(names)] = sums
        return {"names": names.tolist()}
    raise ValueError(f"unknown command kind {kind!r}")
