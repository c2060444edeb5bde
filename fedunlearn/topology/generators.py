"""The graph generators that decentralized-learning papers use, each with the sizes it can make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.randomness import generator as random_generator
from fedunlearn.topology.graphs import check_usable, components, graph_of
from fedunlearn.topology.random_graphs import equal_blocks, geometric_edges, stochastic_block_edges
from fedunlearn.topology.settings import TopologySettings

MAX_EDGES = 10_000_000
_BYTES_PER_EDGE = 400
_DRAWS = 20

Settings = TopologySettings


@dataclass(frozen=True)
class Recipe:
    """One generator: what it is, how many edges it will have, which sizes it can make, and how."""

    summary: str
    build: Callable[[Settings, int, np.random.Generator], nx.Graph]
    edges: Callable[[Settings, int], float]
    fits: Callable[[Settings, int], bool] = lambda s, n: True
    needs: str = "at least one node"
    random: bool = False


def sides(num_nodes: int) -> tuple[int, int]:
    """Return the most square ``(rows, columns)`` with ``rows * columns == num_nodes`` and ``rows <= columns``."""
    rows = next(r for r in range(math.isqrt(num_nodes), 0, -1) if num_nodes % r == 0)
    return rows, num_nodes // rows


def edge_probability(s: Settings, n: int) -> float:
    """Return ``topology.probability``, or the default of the generator.

    Erdős–Rényi and the blocks of a stochastic block model default to twice the connectivity threshold, 2 ln(n)/n for a
    part of n vertices (Erdős and Rényi 1960); small worlds rewire 0.1 of their edges.
    """
    if s.probability is not None:
        return s.probability
    if s.generator == "watts-strogatz":
        return 0.1
    part = max(2, n // s.blocks if s.generator == "stochastic-block" else n)
    return min(1.0, 2 * math.log(part) / part)


def connection_radius(s: Settings, n: int) -> float:
    """Return ``topology.radius``, or 1.5 times the connectivity threshold sqrt(ln n / (pi n)) (Penrose 1997)."""
    return s.radius if s.radius is not None else 1.5 * math.sqrt(math.log(max(2, n)) / (math.pi * max(2, n)))


def lattice_edges(n: int, periodic: bool) -> NDArray[np.int64]:
    """Return the edges (E, 2) of the grid, or (periodic) the torus, of n vertices numbered row by row."""
    rows, columns = sides(n)
    index = np.arange(n).reshape(rows, columns)
    right, down = (np.roll(index, -1, 1), np.roll(index, -1, 0))
    pairs = [np.stack([index, right], -1), np.stack([index, down], -1)]
    if not periodic:
        pairs = [pairs[0][:, :-1], pairs[1][:-1]]
    return np.concatenate([p.reshape(-1, 2) for p in pairs])


def _lattice(n: int, periodic: bool) -> nx.Graph:
    return graph_of(lattice_edges(n, periodic), n)


def _hypercube(n: int) -> nx.Graph:
    bits = [1 << b for b in range(n.bit_length() - 1)]
    v = np.arange(n)
    return graph_of(
        np.concatenate([np.stack([v, v ^ b], 1)[v & b == 0] for b in bits] or [np.zeros((0, 2))]).astype(int), n
    )


def _exponential(n: int) -> nx.Graph:
    v = np.arange(n)
    hops = [1 << k for k in range((n - 1).bit_length())]
    return graph_of(np.concatenate([np.stack([v, (v + hop) % n], 1) for hop in hops]), n)


def _star(n: int) -> nx.Graph:
    return graph_of(np.stack([np.zeros(n - 1, dtype=int), np.arange(1, n)], 1), n)


def _blocks(s: Settings, n: int, rng: np.random.Generator) -> nx.Graph:
    sizes = equal_blocks(n, s.blocks)
    graph = graph_of(stochastic_block_edges(sizes, edge_probability(s, n), s.probability_between, rng), n)
    labels = np.repeat(np.arange(s.blocks), sizes)
    nx.set_node_attributes(graph, dict(enumerate(labels.tolist())), "block")
    return graph


def _geometric(s: Settings, n: int, rng: np.random.Generator) -> nx.Graph:
    points = rng.random((n, 2))
    graph = graph_of(geometric_edges(points, connection_radius(s, n)), n)
    nx.set_node_attributes(graph, {i: (x, y) for i, (x, y) in enumerate(points.tolist())}, "pos")
    return graph


def _block_edges(s: Settings, n: int) -> float:
    inside = n * (n / s.blocks - 1) / 2
    return inside * edge_probability(s, n) + (n * (n - 1) / 2 - inside) * s.probability_between


def _integer(rng: np.random.Generator) -> int:
    """Return a seed for a networkx generator."""
    return int(rng.integers(2**63))


GENERATORS: dict[str, Recipe] = {
    "ring": Recipe(
        "a cycle", lambda s, n, r: nx.cycle_graph(n), lambda s, n: n, lambda s, n: n >= 3, "at least 3 nodes"
    ),
    "path": Recipe("a line of nodes", lambda s, n, r: nx.path_graph(n), lambda s, n: n - 1),
    "star": Recipe(
        "node 0 joined to all others, as a server is", lambda s, n, r: _star(n), lambda s, n: n - 1,
        lambda s, n: n >= 2, "at least 2 nodes",
    ),
    "complete": Recipe(
        "every pair joined", lambda s, n, r: nx.complete_graph(n), lambda s, n: n * (n - 1) / 2,
    ),
    "grid": Recipe(
        "a rectangle of rows x columns, as square as the number of nodes allows", lambda s, n, r: _lattice(n, False),
        lambda s, n: 2 * n, lambda s, n: n > 3 and sides(n)[0] >= 2, "rows x columns nodes with both at least 2",
    ),
    "torus": Recipe(
        "a grid whose opposite sides are joined", lambda s, n, r: _lattice(n, True),
        lambda s, n: 2 * n, lambda s, n: n > 8 and sides(n)[0] >= 3, "rows x columns nodes with both at least 3",
    ),
    "tree": Recipe(
        "a tree filled level by level; branching = children of a node",
        lambda s, n, r: nx.full_rary_tree(s.branching, n), lambda s, n: n - 1,
    ),
    "hypercube": Recipe(
        "nodes joined whose binary numbers differ in one digit", lambda s, n, r: _hypercube(n),
        lambda s, n: n * math.log2(n) / 2, lambda s, n: n & (n - 1) == 0, "a power of two of nodes",
    ),
    "exponential": Recipe(
        "node i joined to i +- 1, 2, 4, 8, ... (Ying et al. 2021, made symmetric)", lambda s, n, r: _exponential(n),
        lambda s, n: n * n.bit_length(), lambda s, n: n >= 2, "at least 2 nodes",
    ),
    "random-regular": Recipe(
        "every node has `degree` random neighbours",
        lambda s, n, r: nx.random_regular_graph(s.degree, n, seed=_integer(r)), lambda s, n: n * s.degree / 2,
        lambda s, n: n > s.degree and n * s.degree % 2 == 0 and (s.degree > 1 or n == 2),
        "more nodes than degree, nodes x degree even, and a degree of at least 2", random=True,
    ),
    "erdos-renyi": Recipe(
        "every pair joined with `probability` (default 2 ln(n)/n)",
        lambda s, n, r: graph_of(stochastic_block_edges(np.array([n]), edge_probability(s, n), 0.0, r), n),
        lambda s, n: edge_probability(s, n) * n * (n - 1) / 2, random=True,
    ),
    "watts-strogatz": Recipe(
        "a ring of `degree` nearest neighbours, each edge rewired with `probability` (default 0.1)",
        lambda s, n, r: nx.watts_strogatz_graph(n, s.degree, edge_probability(s, n), seed=_integer(r)),
        lambda s, n: n * s.degree / 2, lambda s, n: n > s.degree and s.degree % 2 == 0,
        "more nodes than degree, and an even degree", random=True,
    ),
    "barabasi-albert": Recipe(
        "nodes arrive one by one and join `attachments` others, well-joined ones more often",
        lambda s, n, r: nx.barabasi_albert_graph(n, s.attachments, seed=_integer(r)),
        lambda s, n: n * s.attachments, lambda s, n: n > s.attachments, "more nodes than attachments",
        random=True,
    ),
    "stochastic-block": Recipe(
        "`blocks` equal communities; pairs joined with `probability` inside (default 2 ln(size)/size) and "
        "`probability_between` across",
        _blocks, _block_edges, lambda s, n: n >= s.blocks, "at least as many nodes as blocks", random=True,
    ),
    "random-geometric": Recipe(
        "random points of the unit square, joined within `radius` (default 1.5 times the connectivity threshold)",
        _geometric, lambda s, n: min(1.0, math.pi * connection_radius(s, n) ** 2) * n * (n - 1) / 2, random=True,
    ),
    "single": Recipe(
        "one node: centralized learning", lambda s, n, r: nx.empty_graph(1), lambda s, n: 0, lambda s, n: n == 1,
        "exactly 1 node",
    ),
}  # fmt: skip


def available() -> dict[str, str]:
    """Return every generator with one line on what it makes and from which keys."""
    return {name: recipe.summary for name, recipe in GENERATORS.items()}


def generate(settings: TopologySettings, num_nodes: int, seed: int, where: str = "topology.generator") -> nx.Graph:
    """Return a connected graph of the settings' generator on vertices ``0 .. num_nodes-1``.

    A random graph that comes out disconnected is drawn again, so its law is the generator's conditioned on being
    connected; a law that is practically never connected is refused. Raises UserError for a size that the generator
    cannot make, naming the nearest sizes that it can, and for a graph too large to hold.
    """
    recipe = GENERATORS[settings.generator]
    what = f"{where} = '{settings.generator}'"
    if num_nodes < 1 or not recipe.fits(settings, num_nodes):
        raise UserError(
            f"{what} needs {recipe.needs}, not {_given(settings, num_nodes)}{_nearby(recipe, settings, num_nodes)}"
        )
    edges = recipe.edges(settings, num_nodes)
    if edges > MAX_EDGES:
        raise UserError(
            f"{what} on {num_nodes} nodes has about {edges:,.0f} edges, which need "
            f"{edges * _BYTES_PER_EDGE / 2**30:,.0f} GiB; at most {MAX_EDGES:,} are allowed"
        )
    graph = nx.Graph()
    for attempt in range(_DRAWS if recipe.random else 1):
        graph = recipe.build(settings, num_nodes, random_generator(seed, "topology", attempt))
        parts, _ = components(graph)
        # With this many parts on average, a connected draw is rarer than one in e^12: more draws would not help.
        if parts == 1 or parts > 12:
            break
    check_usable(graph, what)
    graph.graph["name"] = settings.generator
    return graph


def _given(s: Settings, n: int) -> str:
    extra = {
        "random-regular": f" with degree = {s.degree}",
        "watts-strogatz": f" with degree = {s.degree}",
        "barabasi-albert": f" with attachments = {s.attachments}",
        "stochastic-block": f" with blocks = {s.blocks}",
    }
    return f"{n} node{'' if n == 1 else 's'}{extra.get(s.generator, '')}"


def _nearby(recipe: Recipe, settings: Settings, n: int) -> str:
    """Return the nearest sizes below and above that fit, as the end of a sentence."""
    below = next((m for m in range(min(n - 1, 10**6), 0, -1) if recipe.fits(settings, m)), None)
    above = next((m for m in range(n + 1, 2 * n + 64) if recipe.fits(settings, m)), None)
    sizes = [str(m) for m in (below, above) if m is not None]
    return f" (nearest that fit: {' and '.join(sizes)})" if sizes else ""
