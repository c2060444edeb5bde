"""Graphs from files: GraphML, edge lists and TOML, by path or by name in a folder ``topologies/``.

Vertices are numbered ``0 .. N-1``: in numerical order when all names in the file are whole numbers, else in the order
of their first appearance. The name of a vertex is kept as its attribute ``label``. Directions, repeated edges,
self-loops and edge weights are ignored: the rules of :mod:`fedunlearn.topology.mixing` depend on degrees only.
"""

from __future__ import annotations

import tomllib
from collections.abc import Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx
from pydantic import ValidationError

from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.topology.settings import TopologySettings

SUFFIXES = {
    ".graphml": "GraphML",
    ".edgelist": "edge list",
    ".edges": "edge list",
    ".txt": "edge list",
    ".toml": "TOML",
}
_SPEC_KEYS = tuple(k for k in TopologySettings.model_fields if k not in ("path", "mixing", "repair"))
_EDGE_KEYS = ("edges", "nodes", "name")


def folders() -> list[Path]:
    """Return where named topologies are looked for: the current folder's ``topologies/``, then the project's."""
    places = [Path.cwd() / "topologies", Path(__file__).resolve().parents[2] / "topologies"]
    return [p for p in dict.fromkeys(places) if p.is_dir()]


def named_files() -> dict[str, Path]:
    """Return the topologies that can be used by name, with the file of each."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.iterdir()):
            if path.suffix in SUFFIXES and path.is_file():
                found.setdefault(path.stem, path)
    return found


def find_file(name: str) -> Path:
    """Return the file that ``name`` means: a path to a file, or a name in a ``topologies/`` folder.

    Raises UserError with the nearest known name when there is no such file.
    """
    given = Path(name).expanduser()
    if given.is_file():
        return given
    named = named_files()
    if name in named:
        return named[name]
    for folder in folders():
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"topology.path = '{name}' is neither a file nor a name in topologies/{nearest(name, named)}"
        f" (named: {listed(named) or 'none'})"
    )


def read_file(path: Path) -> nx.Graph | TopologySettings:
    """Return the graph in a file, or the generator settings if the file is a TOML generator spec.

    The graph is not yet checked to be connected. Raises UserError when the file cannot be read or understood.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path}: '{path.suffix}' is not a known kind of topology file; known are {listed(SUFFIXES)}")
    try:
        if kind == "GraphML":
            graph = _numbered(*_read_graphml(path))
        elif kind == "edge list":
            graph = _numbered(*_read_edge_list(path))
        else:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            if "edges" not in content:
                return _spec(path, content)
            graph = _numbered(*_toml_edges(path, content))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as {kind}: {_one_line(error)}") from None
    graph.graph["name"] = path.stem
    return graph


Nodes = list[Hashable]
Edges = list[tuple[Hashable, Hashable]]


def _numbered(nodes: Iterable[Hashable], edges: Edges) -> nx.Graph:
    """Return the graph with its vertices numbered by the rule of this module."""
    names = list(dict.fromkeys(str(n) for n in (*nodes, *(end for edge in edges for end in edge))))
    with suppress(ValueError):
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    graph = nx.Graph()
    graph.add_nodes_from((i, {"label": name}) for name, i in number.items())
    graph.add_edges_from((number[str(a)], number[str(b)]) for a, b in edges if str(a) != str(b))
    return graph


def _read_graphml(path: Path) -> tuple[Nodes, Edges]:
    try:
        graph = nx.read_graphml(path)
    except (ParseError, nx.NetworkXError, ValueError, KeyError, StopIteration) as error:
        raise UserError(f"{path}: is not valid GraphML: {_one_line(error)}") from None
    return list(graph.nodes()), list(graph.edges())


def _read_edge_list(path: Path) -> tuple[Nodes, Edges]:
    """Read one edge a line: two names, apart by blanks or a comma; anything after them is ignored, ``#`` comments."""
    edges: Edges = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) < 2:
            raise UserError(f"{path}: line {number} = '{line.strip()}' is not an edge; a line holds two node names")
        edges.append((words[0], words[1]))
    return [], edges


def _toml_edges(path: Path, content: dict[str, Any]) -> tuple[Nodes, Edges]:
    """Read ``edges = [[a, b], ...]`` and, optionally, ``nodes`` as a number of nodes or a list of names."""
    for key in content:
        if key not in _EDGE_KEYS:
            raise UserError(_unknown(path, key, content[key], _EDGE_KEYS))
    edges = content["edges"]
    if not isinstance(edges, list):
        raise UserError(f"{path}: edges = {edges!r} is not a list of pairs of nodes")
    for edge in edges:
        if not (isinstance(edge, list) and len(edge) == 2 and all(_is_name(end) for end in edge)):
            raise UserError(f"{path}: edges contains {edge!r}, which is not a pair of node names or numbers")
    nodes = content.get("nodes", [])
    if isinstance(nodes, int) and not isinstance(nodes, bool) and nodes > 0:
        nodes = list(range(nodes))
    if not (isinstance(nodes, list) and all(_is_name(n) for n in nodes)):
        raise UserError(f"{path}: nodes = {nodes!r} is neither a positive number of nodes nor a list of names")
    if nodes:
        known = {str(n) for n in nodes}
        for edge in edges:
            if not {str(end) for end in edge} <= known:
                raise UserError(f"{path}: edges contains {edge!r}, which names a node that is not in nodes")
    return nodes, [(a, b) for a, b in edges]


def _is_name(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _spec(path: Path, content: dict[str, Any]) -> TopologySettings:
    """Return the settings of a generator spec; only keys that shape the graph are allowed in it."""
    for key in content:
        if key not in _SPEC_KEYS:
            raise UserError(_unknown(path, key, content[key], (*_SPEC_KEYS, "edges")))
    if "generator" not in content:
        raise UserError(f"{path}: has neither 'generator' (a spec) nor 'edges' (a list of pairs of nodes)")
    if content["generator"] == "file":
        raise UserError(f"{path}: generator = 'file' is not allowed inside a topology file; name a generator")
    try:
        return TopologySettings(**content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{path}: {key} = {first['input']!r}: {message}") from None


def _unknown(path: Path, key: str, value: object, allowed: Iterable[str]) -> str:
    allowed = tuple(allowed)
    if key in ("mixing", "repair", "path"):
        return f"{path}: {key} = {value!r} belongs in the experiment's [topology], not in a topology file"
    return f"{path}: {key} = {value!r} is not a known key{nearest(key, allowed)} (allowed: {listed(allowed)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
