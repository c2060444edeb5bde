"""``fedunlearn topology``: the graphs that can be asked for, and the numbers of one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedunlearn.cli.options import Overrides, Seed, console, facts
from fedunlearn.cli.rooms import room_settings
from fedunlearn.errors import UserError, nearest

if TYPE_CHECKING:
    import networkx as nx

    from fedunlearn.topology.settings import TopologySettings

app = typer.Typer(help="Communication graphs.", no_args_is_help=True)

DEFAULT_NODES = 20
EXACT_DIAMETER = 2000


@app.command("list")
def list_generators() -> None:
    """List the generators of graphs with their parameters, and the named files."""
    from rich.table import Table
    from rich.text import Text

    from fedunlearn.topology import available, named_files

    table = Table("name", "what it is")
    for name, parameters in available().items():
        table.add_row(name, Text(parameters))
    table.add_section()
    for name, path in named_files().items():
        table.add_row(name, Text(f"{path.parent.name}/{path.name}"))
    console().print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A generator, a file in topologies/, or a path.")],
    overrides: Overrides = None,
    seed: Seed = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Draw the graph (png, pdf, svg).")] = None,
) -> None:
    """Print nodes, edges, degrees, diameter, mixing rule, spectral gap and mixing time of a graph."""
    from fedunlearn.topology import build_graph, node_count

    settings = _settings(name, list(overrides or ()))
    graph = build_graph(settings, node_count(settings) or DEFAULT_NODES, seed or 0)
    console().print(facts(name, numbers(graph, settings, seed or 0)))
    if plot is not None:
        from fedunlearn.plots import save, topology

        size = f"{graph.number_of_nodes():,} nodes, {graph.number_of_edges():,} edges"
        save(topology(graph, name, size), plot)
        console().print(f"figure  {plot}", soft_wrap=True, markup=False)


def _settings(name: str, overrides: list[str]) -> TopologySettings:
    from fedunlearn.topology import available, named_files
    from fedunlearn.topology.settings import TopologySettings

    if name in available() or name == "file":
        return room_settings(TopologySettings, "topology", {"generator": name}, overrides)
    if name not in named_files() and not Path(name).is_file():
        known = [*available(), *named_files()]
        raise UserError(
            f"topology show {name}: is neither a generator nor a topology file{nearest(name, known)} "
            "(`fedunlearn topology list` names them all)"
        )
    path = name if name in named_files() else str(Path(name).absolute())  # an argument is the user's own hand
    return room_settings(TopologySettings, "topology", {"generator": "file", "path": path}, overrides)


def numbers(graph: nx.Graph, settings: TopologySettings, seed: int) -> dict[str, Any]:
    """Return what ``topology show`` prints of a connected graph under the settings' mixing rule."""
    import networkx as nx

    from fedunlearn.topology import spectrum_of

    degrees = [degree for _, degree in graph.degree()]
    nodes = graph.number_of_nodes()
    found = spectrum_of(graph, settings.mixing, seed=seed)
    return {
        "nodes": nodes,
        "edges": graph.number_of_edges(),
        "degrees": f"{min(degrees)} to {max(degrees)}, mean {sum(degrees) / nodes:.3g}",
        "diameter": nx.diameter(graph) if nodes <= EXACT_DIAMETER else f"at least {_far(graph)}",
        "mixing_rule": settings.mixing,
        "spectral_gap": f"{found.gap:.5g} of {found.of}",
        "mixing_time": f"{found.mixing_time:g} rounds",
    }


def _far(graph: nx.Graph) -> int:
    """Return the distance found by two breadth-first sweeps: a lower bound of the diameter, usually equal to it."""
    import networkx as nx

    start = next(iter(graph))
    for _ in range(2):
        distances = nx.single_source_shortest_path_length(graph, start)
        start = max(distances, key=lambda vertex: distances[vertex])
    return int(distances[start])
