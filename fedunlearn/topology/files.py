"""Graphs from files: GraphML, edge lists and TOML, by path or by name in a folder ``topologies/``.

Vertices are numbered ``0 .. N-1``: in numerical order when all names in the file are whole numbers, else in the order
of their first appearance. The name of a vertex is kept as its attribute ``label``. Directions, repeated edges,
self-loops and edge weights are ignored: the rules of :mod:`fedunlearn.topology.mixing` depend on degrees only.
"""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.parsers import expat

import networkx as nx
from pydantic import ValidationError

from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.paths import confined, is_plain_name
from fedunlearn.plain_text import parse_toml
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
_MOST_NODES = 10_000_000
_DEEPEST = 100
"""Elements of GraphML within each other."""


def folders() -> list[Path]:
    """Return where named topologies are looked for: the current folder's ``topologies/``, then the project's."""
    places = [Path.cwd() / "topologies", Path(__file__).resolve().parents[2] / "topologies"]
    return [p for p in dict.fromkeys(places) if p.is_dir()]


def named_files() -> dict[str, Path]:
    """Return the topologies that can be used by name, with the file of each."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.iterdir()):
            if path.suffix in SUFFIXES and _stays(folder, path) and path.is_file():
                found.setdefault(path.stem, path)
    return found


def _stays(folder: Path, path: Path) -> bool:
    """Return whether a file of a folder is one of that folder, and no link to a file elsewhere."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False


def find_file(name: str) -> Path:
    """Return the file that ``name`` means: a path to a file, or a name in a ``topologies/`` folder.

    Raises UserError with the nearest known name when there is no such file.
    """
    given = confined(name, "topology.path")
    if given.is_file():
        return given
    named = named_files()
    if name in named:
        return named[name]
    for folder in folders():
        if is_plain_name(name) and _stays(folder, folder / name) and (folder / name).is_file():
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
            content = parse_toml(path.read_text(encoding="utf-8"))
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
        _refuse_entities(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about ports and types, which the simulator has no use for
            graph = nx.read_graphml(path)
    except OSError:
        raise
    except Exception as error:  # the reader of networkx raises whatever its conversions raise on malformed files
        raise UserError(f"{path}: is not valid GraphML: {_one_line(error)}") from None
    return list(graph.nodes()), list(graph.edges())


def _refuse_entities(path: Path) -> None:
    """Raise ValueError for XML that declares entities, which can expand to gigabytes or name other files, or is deep.

    Graphs need neither. The parser reads the file once and builds nothing.
    """
    parser, depth = expat.ParserCreate(), 0

    def declared(*_: object) -> None:
        raise ValueError("it declares entities, which a graph does not need")

    def opened(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")

    def closed(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser.EntityDeclHandler = declared
    parser.StartElementHandler, parser.EndElementHandler = opened, closed
    with path.open("rb") as file:
        parser.ParseFile(file)


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
    if isinstance(nodes, int) and not isinstance(nodes, bool) and 0 < nodes <= _MOST_NODES:
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
