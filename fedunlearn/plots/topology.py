"""A communication graph by itself, before anybody has learned anything on it."""

from __future__ import annotations

import networkx as nx
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from fedunlearn.plots.layout import MOST_EDGES, dot_size, edge_look, layout
from fedunlearn.plots.style import BLUE, PAPER, headline, look, new_figure


def topology(graph: nx.Graph, title: str, subtitle: str = "") -> Figure:
    """Return the figure of a graph with vertices 0..N-1; edges beyond 20,000 are left out."""
    with look():
        figure = new_figure(6.4, 5.6)
        headline(figure, title, subtitle)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.86))
        axes.set_axis_off()
        axes.set_aspect("equal")
        places = layout(graph)
        ends = np.array(list(graph.edges()), dtype=np.int64).reshape(-1, 2)
        if len(ends) <= MOST_EDGES:
            axes.add_collection(LineCollection(list(places[ends]), **edge_look(len(ends))))
        x, y = places.T
        axes.scatter(x, y, c=BLUE, s=dot_size(len(graph)), edgecolors=PAPER, linewidths=0.9, zorder=3)
        axes.margins(0.06)
    return figure
