"""The network engine: a population of models as rows of one store, and the bulk primitives that methods are written against.

``Session`` opens the hosts, ``Network`` is one population on a graph, ``train`` runs a recipe on it.
"""

from fedunlearn.network.network import Network
from fedunlearn.network.session import Session
from fedunlearn.network.settings import LinkSettings, RuntimeSettings, TrainingSettings
from fedunlearn.network.training import train
from fedunlearn.network.transport import Reply, Request, Transport

__all__ = [
    "LinkSettings",
    "Network",
    "Reply",
    "Request",
    "RuntimeSettings",
    "Session",
    "TrainingSettings",
    "Transport",
    "train",
]
