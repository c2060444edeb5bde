"""Small worlds for tests: data sets made by hand, and networks on them without any messaging layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import networkx as nx
import numpy as np

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.models import FeatureMap, Model, ModelSettings, build_model
from fedunlearn.network import Network, RuntimeSettings, Session
from fedunlearn.network.inline import InlineTransport


def image_data(
    clients: int = 6, classes: int = 4, side: int = 8, seed: int = 0, sizes: tuple[int, int] = (9, 23)
) -> FederatedDataset:
    """Return byte images whose class shows as a bright stripe, with client-dependent class shares and sizes; two more
    clients are public and never-member."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*sizes, size=clients + 2)
    labels, images = [], []
    for count in counts:
        y = rng.choice(classes, count, p=rng.dirichlet(np.full(classes, 0.7)))
        x = rng.integers(0, 120, (count, side, side))
        x[np.arange(count), y] += 130
        labels.append(y)
        images.append(x)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    is_test = np.zeros(offsets[-1], dtype=bool)
    is_test[offsets[:-1]] = True
    roles = np.array([Role.TRAIN] * clients + [Role.PUBLIC, Role.NEVER_MEMBER], dtype=np.uint8)
    return FederatedDataset(
        name="stripes",
        inputs=np.concatenate(images).astype(np.uint8),
        labels=np.concatenate(labels).astype(np.int64),
        offsets=offsets,
        is_test=is_test,
        roles=roles,
        client_names=tuple(f"c{i}" for i in range(clients + 2)),
        class_names=tuple("abcdefghij"[:classes]),
        provenance="made for a test",
        synthetic=True,
    )


def model_for(dataset: FederatedDataset, name: str = "softmax", features: str = "unit") -> tuple[Model, FeatureMap]:
    """Return a model and the feature map in front of it."""
    mapping = FeatureMap(features, dataset.input_shape)  # type: ignore[arg-type]
    return build_model(ModelSettings(name=name, features=features), dataset.num_classes, mapping.output_shape), mapping


@contextmanager
def open_session(
    dataset: FederatedDataset, model: Model, features: FeatureMap, *, hosts: int = 1, workers: int = 0, seed: int = 0
) -> Iterator[Session]:
    """Open a session on hosts of this process."""
    runtime = RuntimeSettings(hosts=hosts, workers=workers)
    with Session(InlineTransport(hosts), dataset, model, features, seed=seed, runtime=runtime) as session:
        yield session


def ring_network(session: Session, name: str = "main", mixing: str = "metropolis", **kwargs: Any) -> Network:
    """Return a network on a ring with one chord, from the model's public start."""
    graph = nx.cycle_graph(session.num_nodes) if session.num_nodes > 2 else nx.path_graph(session.num_nodes)
    if session.num_nodes > 3:
        graph.add_edge(0, session.num_nodes // 2)
    return Network(session, name, graph, mixing, session.model.initial(0), **kwargs)  # type: ignore[arg-type]


def all_rows(network: Network) -> np.ndarray:
    """Return the rows of the alive vertices, (k, d) float32."""
    return network.read_rows(np.flatnonzero(network.alive))
