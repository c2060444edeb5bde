"""The plots room: figures from plain numbers and from the files of a run, never from a live network.

The only room that imports matplotlib.
"""

from fedunlearn.plots.accuracy import accuracy_over_rounds
from fedunlearn.plots.certificates import certificate_curves
from fedunlearn.plots.comparison import comparison
from fedunlearn.plots.draw import draw_all
from fedunlearn.plots.influence import influence_over_rounds
from fedunlearn.plots.moved import topology_moved
from fedunlearn.plots.style import save
from fedunlearn.plots.topology import topology

__all__ = [
    "accuracy_over_rounds",
    "certificate_curves",
    "comparison",
    "draw_all",
    "influence_over_rounds",
    "save",
    "topology",
    "topology_moved",
]
