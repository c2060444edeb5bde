"""Small worlds for tests: data sets made by hand, and networks on them without any messaging layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.models import FeatureMap, Model, ModelSettings, build_model
from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings
from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import PrivacySettings
from fedunlearn.requests import DeletionRequest, RequestSettings, resolve_requests
from fedunlearn.topology import Mixing, remove_vertex
from fedunlearn.unlearning.base import Outcome, Plan, PublicKnowledge, Situation
from fedunlearn.unlearning.registry import check_defined, method


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


def table_data(
    clients: int = 6, classes: int = 3, inputs: int = 4, seed: int = 0, sizes: tuple[int, int] = (8, 20)
) -> FederatedDataset:
    """Return float rows whose law differs from client to client, in inputs and in labels; no test samples, no other
    roles."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(*sizes, size=clients)
    truth = 3 * rng.normal(size=(classes, inputs))
    rows, labels = [], []
    for count in counts:
        x = rng.normal(size=(count, inputs)) + 1.5 * rng.normal(size=inputs)
        own = truth + 2 * rng.normal(size=truth.shape)
        labels.append((x @ own.T + rng.gumbel(size=(count, classes))).argmax(1))
        rows.append(x)
    x = np.concatenate(rows)
    return FederatedDataset(
        name="table",
        inputs=(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32),
        labels=np.concatenate(labels).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        is_test=np.zeros(len(x), dtype=bool),
        roles=np.full(clients, Role.TRAIN, dtype=np.uint8),
        client_names=tuple(f"c{i}" for i in range(clients)),
        class_names=tuple("abcdefghij"[:classes]),
        provenance="made for a test",
        synthetic=True,
    )


def request_for(dataset: FederatedDataset, number: int = 0, seed: int = 0, **request: Any) -> DeletionRequest:
    """Return one resolved request, as the ``number``-th of a run."""
    resolved = resolve_requests((RequestSettings(**request),), dataset, seed)[0]
    return DeletionRequest(**{**vars(resolved), "number": number})


def empty_request(dataset: FederatedDataset, client: int = 1) -> DeletionRequest:
    """Return a request of a client for none of its samples, which no settings can ask for: a control of methods."""
    whole = request_for(dataset, level="sample", client=client, count=1)
    return replace(whole, sample_ids=np.zeros(0, dtype=np.int64))


class Story:
    """A network, a method, and what a run does with them, without evaluation and record.

    ``outcomes`` lists what training's end and every answer gave; ``persisted`` the releases in the order of storing.
    """

    def __init__(
        self, session: Session, name: str, training: TrainingSettings, *, graph: nx.Graph | None = None,
        public: PublicKnowledge | None = None, privacy: PrivacySettings | None = None, population: str = "main",
        repair: str = "path", requests: Sequence[DeletionRequest] = (), mixing: Mixing = "metropolis", **settings: Any,
    ) -> None:  # fmt: skip
        info = method(name)
        self.session, self.training, self.public = session, training, public
        self.privacy = privacy or PrivacySettings()
        self.unlearner = info.implementation(info.settings(**settings))
        self.repair, self.mixing = repair, mixing
        counts = np.array([len(session.dataset.train_rows(c)) for c in range(session.num_nodes)])
        self.plan = Plan(
            session.model, training, self.privacy, mixing, repair, counts, tuple(requests), session.features.kind,
            graph,
        )  # fmt: skip
        check_defined(info, self.plan)
        self.unlearner.check(self.plan)
        self.persisted: list[np.ndarray] = []
        self.outcomes: list[Outcome] = []
        self.network = self._population(population, graph)

    def _population(self, name: str, graph: nx.Graph | None, like: Network | None = None) -> Network:
        kwargs: dict[str, Any] = {"momentum": self.training.momentum > 0}
        if like is not None:
            kwargs |= {"deleted": like.deleted, "alive": like.alive}
        if graph is None:
            return ring_network(self.session, name, self.mixing, **kwargs)
        return Network(self.session, name, graph, self.mixing, self.session.model.initial(0), **kwargs)

    def situation(self, world: str = "main") -> Situation:
        """Return what the method is told for the next release."""
        last = self.outcomes[-1].release if self.outcomes and world == "main" else None
        return Situation(
            training=self.training, privacy=self.privacy, start=self.session.model.initial(0), seed=0,
            release=len(self.outcomes), retrain=self.retrain, persist=self.persisted.append, public=self.public,
            previous_release=last, world=world, hashes={"settings.toml": "0" * 64},
        )  # fmt: skip

    def retrain(self, network: Network) -> None:
        """Run the recipe from the public start."""
        network.write(self.session.model.initial(0))
        self.unlearner.train(network, self.situation())

    def learn(self) -> Outcome:
        """Train, and end the training."""
        self.unlearner.prepare(self.network, self.situation())
        self.unlearner.train(self.network, self.situation())
        self.outcomes.append(self.unlearner.conclude(self.network, self.situation()))
        return self.outcomes[-1]

    def forget(self, request: DeletionRequest) -> None:
        """Everything that happens to a request before the method answers."""
        network = self.network
        self.unlearner.observe(network, request, self.situation())
        for node in () if self.repair == "relay" else request.leaves:
            network.leave(node, remove_vertex(network.graph, node, self.repair, network.alive))
        network.erase(request.sample_ids)

    def answer(self, request: DeletionRequest) -> Outcome:
        """Answer a request."""
        self.forget(request)
        outcome = self.unlearner.unlearn(self.network, request, self.situation())
        self.network.wipe()
        self.outcomes.append(outcome)
        return outcome

    def twin(self) -> tuple[Network, Outcome]:
        """Return a network that never saw what was deleted so far, trained by the same recipe, and how it ended."""
        twin = self._population("twin", self.network.graph, self.network)
        self.unlearner.train(twin, self.situation("retrained"))
        return twin, self.unlearner.conclude(twin, self.situation("retrained"))
