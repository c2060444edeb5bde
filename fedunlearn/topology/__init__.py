"""The communication graph: where it comes from, how it mixes models, and how it heals when a client leaves.

Graphs are ``networkx.Graph`` on vertices ``0 .. N-1``; matrices are sparse (N, N) arrays on the same ids, which a
departure never renumbers.
"""

from fedunlearn.topology.build import build_graph, load_file, node_count
from fedunlearn.topology.files import named_files
from fedunlearn.topology.generators import available
from fedunlearn.topology.influence import influence, predicted_influence
from fedunlearn.topology.matching import expected_matching, random_matching
from fedunlearn.topology.mixing import changes_every_round, check_doubly_stochastic, mixing_matrix, needs_matrix
from fedunlearn.topology.repair import remove_vertex
from fedunlearn.topology.settings import Mixing, Repair, TopologySettings
from fedunlearn.topology.spectrum import Spectrum, spectrum, spectrum_of

__all__ = [
    "Mixing",
    "Repair",
    "Spectrum",
    "TopologySettings",
    "available",
    "build_graph",
    "changes_every_round",
    "check_doubly_stochastic",
    "expected_matching",
    "influence",
    "load_file",
    "mixing_matrix",
    "named_files",
    "needs_matrix",
    "node_count",
    "predicted_influence",
    "random_matching",
    "remove_vertex",
    "spectrum",
    "spectrum_of",
]
