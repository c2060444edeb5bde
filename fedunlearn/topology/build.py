"""From settings to a graph, whether it is generated or read from a file."""

from __future__ import annotations

import networkx as nx

from fedunlearn.errors import UserError
from fedunlearn.topology.files import find_file, read_file
from fedunlearn.topology.generators import generate
from fedunlearn.topology.graphs import check_usable
from fedunlearn.topology.settings import TopologySettings


def node_count(settings: TopologySettings) -> int | None:
    """Return the number of nodes that the settings fix (by ``nodes``, a file or ``single``), or None if any will do.

    Raises UserError when the file cannot be read or contradicts ``nodes``.
    """
    fixed = settings.nodes
    if settings.generator == "single":
        fixed = 1 if fixed is None else fixed
    if settings.generator == "file":
        content = read_file(find_file(_named(settings)))
        in_file = content.nodes if isinstance(content, TopologySettings) else len(content)
        if fixed is not None and in_file is not None and fixed != in_file:
            raise UserError(
                f"topology.nodes = {fixed}, but the file '{settings.path}' has {in_file} nodes; leave nodes out"
            )
        fixed = in_file if fixed is None else fixed
    return fixed


def build_graph(settings: TopologySettings, num_nodes: int, seed: int) -> nx.Graph:
    """Return the connected graph of the settings on vertices ``0 .. num_nodes-1``.

    ``seed`` is the run's; ``topology.seed`` comes before it, and the seed in a spec file before both. A random graph is
    drawn again until it is connected. Vertices may carry ``label`` (name in the file), ``pos`` (random geometric) and
    ``block`` (stochastic block).

    Raises UserError for a disconnected graph, an isolated node, a size that the generator cannot make or that differs
    from the file's, and a graph too large to hold.
    """
    fixed = node_count(settings)
    if fixed is not None and fixed != num_nodes:
        key = f"topology.path = '{settings.path}'" if settings.generator == "file" else "topology"
        raise UserError(f"{key} has {fixed} nodes, but there are {num_nodes} train clients; the two must agree")
    seed = seed if settings.seed is None else settings.seed
    if settings.generator != "file":
        return generate(settings, num_nodes, seed)
    return load_file(_named(settings), num_nodes, seed)


def load_file(name: str, num_nodes: int | None = None, seed: int = 0) -> nx.Graph:
    """Return the connected graph of a GraphML, edge-list or TOML file, given by path or by name in ``topologies/``.

    ``num_nodes`` and ``seed`` matter only for a generator spec that does not fix them. Raises UserError as
    :func:`build_graph` does.
    """
    path = find_file(name)
    content = read_file(path)
    if isinstance(content, TopologySettings):
        size = content.nodes if content.nodes is not None else num_nodes
        if size is None and content.generator == "single":
            size = 1
        if size is None:
            raise UserError(f"{path}: gives no number of nodes; add the key 'nodes'")
        graph = generate(content, size, seed if content.seed is None else content.seed, where=f"{path}: generator")
        graph.graph["name"] = path.stem
        return graph
    check_usable(content, str(path))
    return content


def _named(settings: TopologySettings) -> str:
    if settings.path is None:
        raise UserError(
            "topology.generator = 'file' needs topology.path, a GraphML, edge-list or TOML file or a known name"
        )
    return settings.path
