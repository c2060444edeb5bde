"""The data room: sources, partitions, roles, and the views through which samples may be read.

``load_dataset`` turns settings into one :class:`FederatedDataset`; ``retain`` is the only door of training and
unlearning code to its samples, ``Escrow`` keeps deleted ones for evaluation.
"""

from fedunlearn.data.dataset import FederatedDataset, Role
from fedunlearn.data.load import describe, load_dataset
from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources import SOURCES, SourceInfo
from fedunlearn.data.views import DeletedDataError, Escrow, RetainView, retain

__all__ = [
    "SOURCES",
    "DataSettings",
    "DeletedDataError",
    "Escrow",
    "FederatedDataset",
    "RetainView",
    "Role",
    "SourceInfo",
    "describe",
    "load_dataset",
    "retain",
]
