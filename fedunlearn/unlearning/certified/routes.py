"""Where a token goes: routes over the graph, drawn from seeds and public ids alone, so that all worlds can share them.

Acting hops are numbered from 1, as in docs/certificates.md T8; in between the token may pass vertices that only forward
it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import networkx as nx

from fedunlearn.randomness import generator


@dataclass(frozen=True)
class Route:
    """The vertices a token passes, one after the other, and whether each acts; the first holds the token already.

    ``node`` is the vertex whose hops are noisy; ``visits`` are the numbers, from 1, of its acting hops among all.
    """

    moves: tuple[tuple[int, bool], ...]
    node: int

    @property
    def stops(self) -> tuple[int, ...]:
        """The acting vertices, one a hop."""
        return tuple(v for v, acts in self.moves if acts)

    @property
    def visits(self) -> tuple[int, ...]:
        """Numbers of the hops at ``node``, from 1."""
        return tuple(hop for hop, v in enumerate(self.stops, start=1) if v == self.node)

    def then_to(self, vertex: int, graph: nx.Graph) -> Route:
        """Return the route that goes on to ``vertex`` along a shortest path on which nobody acts."""
        path = shortest_path(graph, self.moves[-1][0], vertex)
        return Route((*self.moves, *((v, False) for v in path[1:])), self.node)

    def part(self, first: int, last: int) -> Route:
        """Return the part after the acting hop ``first`` up to the acting hop ``last``."""
        places = [0, *(i for i, (_, acts) in enumerate(self.moves) if acts)]
        begin, end = places[first], places[last]
        return Route(((self.moves[begin][0], False), *self.moves[begin + 1 : end + 1]), self.node)


def shortest_path(graph: nx.Graph, start: int, goal: int) -> list[int]:
    """Return a shortest path, both ends included; among equally short ones a rule of the ids alone decides.

    From the start it always goes to the neighbour of smallest id that is nearer to the goal.
    """
    distance = nx.single_source_shortest_path_length(graph, goal)
    path = [start]
    while path[-1] != goal:
        path.append(min(v for v in graph.neighbors(path[-1]) if distance[v] == distance[path[-1]] - 1))
    return path


def restart_route(
    graph: nx.Graph, node: int, actors: Collection[int], hops: int, restart: float, seed: int, number: int,
    attempt: int = 0,
) -> Route:  # fmt: skip
    """Draw the route of a walk that returns to ``node`` with probability ``restart`` at every hop.

    Otherwise the next hop is a uniformly random neighbour other than ``node``, so ``node`` is visited with probability
    ``restart`` exactly (Lamri and Maniatakos, arXiv 2512.08443, Algorithm 1, with the walk restricted to the other
    vertices: were it free, ``node`` would be visited about twice as often on a complete graph).

    ``actors`` are the vertices with data. Others forward: vertices joined through them count as neighbours. Where the
    graph is sparse a restart takes a shortest path, on which nobody acts. A vertex without any neighbour but ``node``
    keeps the token for the next hop. The draw depends on ``(seed, number, attempt)`` and on public ids.
    """
    near = {v: _neighbours(graph, v, set(actors)) for v in actors}
    draw = generator(seed, "restart walk", number, attempt)
    here = node
    moves: list[tuple[int, bool]] = [(node, False)]
    for _ in range(hops):
        back = draw.random() < restart
        place = draw.random()
        choice = [v for v in sorted(near[here]) if v != node]
        if back:
            path = shortest_path(graph, here, node)
        elif choice:
            path = near[here][choice[int(place * len(choice))]]
        else:
            path = [here]
        here = path[-1]
        moves += [(v, False) for v in path[1:-1]]
        moves.append((here, True))
    return Route(tuple(moves), node)


def uniform_route(nodes: list[int], hops: int, seed: int, number: int) -> Route:
    """Draw the route of a walk on the complete graph: every hop at a uniformly random vertex, the present one included.

    The walk of Cyffers and Bellet (AISTATS 2022, section 5).
    """
    draw = generator(seed, "uniform walk", number)
    stops = [nodes[i] for i in draw.integers(len(nodes), size=hops)]
    return Route(((stops[0], False), *((v, True) for v in stops)), stops[0])


def _neighbours(graph: nx.Graph, vertex: int, actors: set[int]) -> dict[int, list[int]]:
    """Return the actors that are joined to a vertex, directly or through vertices that only forward, with a path."""
    paths = {vertex: [vertex]}
    frontier = [vertex]
    while frontier:
        reached = []
        for v in frontier:
            if v != vertex and v in actors:
                continue
            for w in sorted(graph.neighbors(v)):
                if w not in paths:
                    paths[w] = [*paths[v], w]
                    reached.append(w)
        frontier = reached
    return {w: path for w, path in paths.items() if w in actors and w != vertex}
