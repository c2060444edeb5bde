"""What every unlearning method is given, and what it must give back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.models import Model
from fedunlearn.network import Network, TrainingSettings, train
from fedunlearn.network.training import Watcher
from fedunlearn.privacy import Certificate, PrivacySettings
from fedunlearn.requests import DeletionRequest
from fedunlearn.topology.settings import Mixing, Repair
from fedunlearn.unlearning.games import Game


@dataclass(frozen=True)
class Cost:
    """What an answer took. ``network_seconds`` are simulated, ``seconds`` are this machine's."""

    seconds: float = 0.0
    gradients: int = 0
    hvps: int = 0
    messages: int = 0
    bytes: int = 0
    network_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


@dataclass(frozen=True)
class PublicKnowledge:
    """What is known without any record that may be deleted: the public clients' records and what was made of them.

    ``inputs`` (n, ...) as the model takes them, ``labels`` (n,), ``head`` (d,) float64 the model fitted on them alone.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    head: NDArray[np.float64] | None


@dataclass(frozen=True)
class Situation:
    """The circumstances of an answer that are the same for every method.

    ``release`` numbers the releases of a world; ``world`` keeps the noise of a retrained twin apart from the network's.
    ``retrain`` runs the training recipe on a network from the public start; ``previous_release`` is what the network
    released last; ``hashes`` are those of the settings. ``persist`` stores a release before anybody receives it. With
    ``cache`` what depends on public data alone may be kept on disk for later runs.

    ``keep`` stores a vector as noise was added to it, under a word, and ``kept`` finds it again when a run was
    interrupted since and tells its story again: see :meth:`noised`.
    """

    training: TrainingSettings
    privacy: PrivacySettings
    start: NDArray[np.float32]
    seed: int
    release: int
    retrain: Callable[[Network], None]
    persist: Callable[[NDArray[np.float32]], None]
    public: PublicKnowledge | None = None
    previous_release: NDArray[np.float32] | None = None
    world: str = "main"
    hashes: dict[str, str] = field(default_factory=dict)
    cache: bool = False
    keep: Callable[[str, NDArray[np.float32]], None] = lambda what, vector: None
    kept: Callable[[str], NDArray[np.float32] | None] = lambda what: None

    def noised(self, draw: Callable[[], NDArray[np.float32]], what: str = "release") -> NDArray[np.float32]:
        """Return what ``draw`` gives, a vector (d,) with fresh noise, stored before it is returned.

        Where an interrupted run has stored the vector of this release under this word already, that one is returned
        and nothing is drawn: noise is never drawn twice for one state, or two releases would tell more than one.
        """
        found = self.kept(what)
        if found is None:
            found = draw()
            self.keep(what, found)
        return found


@dataclass(frozen=True)
class Outcome:
    """What a method hands back when it has answered.

    ``noise_free`` (d,) float64 is the vector that noise was added to: for the evaluation alone, which compares it with
    retraining and then drops it. Methods whose nodes keep their own models leave it None.
    ``further_certificates`` are about other observers than the first, such as those who saw the messages.
    """

    noise_free: NDArray[np.float64] | None = None
    release: NDArray[np.float32] | None = None
    certificate: Certificate | None = None
    certificate_reason: str = ""
    further_certificates: tuple[Certificate, ...] = ()
    fell_back_to_retraining: bool = False
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a method is asked to do, known before anything is trained.

    ``counts`` (N,) training samples of every vertex before any deletion; ``repair`` is what happens to the graph when a
    client leaves; ``feature_kind`` is how records become inputs; ``graph`` joins the vertices, where it is known yet.
    ``faults``: whether nodes, links and messages fail.
    """

    model: Model
    training: TrainingSettings
    privacy: PrivacySettings
    mixing: Mixing
    repair: Repair
    counts: NDArray[np.int64]
    requests: tuple[DeletionRequest, ...]
    feature_kind: str = "unit"
    graph: nx.Graph | None = None
    faults: bool = False

    @property
    def nodes(self) -> int:
        """Number of vertices."""
        return len(self.counts)

    @property
    def network(self) -> str:
        """The setting: ``centralized`` (one vertex), ``federated`` (exact averages) or ``decentralized``."""
        if self.nodes == 1:
            return "centralized"
        exact = self.training.algorithm == "fedavg" or self.mixing == "exact-average"
        return "federated" if exact else "decentralized"


class Unlearner:
    """Answers deletion requests on a trained network.

    A method overrides :meth:`unlearn`, and the rest where it needs to. What it keeps from one call to the next it names
    in ``keeps``, so that a run that was interrupted can go on: attributes whose values are numbers, texts, arrays,
    lists, tuples, tables, and dataclasses among ``keeps_classes``. ``rebuilds`` names the attributes that the
    constructor, :meth:`check` and :meth:`prepare` give again. A run whose method has others writes no checkpoint.
    """

    keeps: ClassVar[tuple[str, ...]] = ()
    keeps_classes: ClassVar[tuple[type, ...]] = ()
    rebuilds: ClassVar[tuple[str, ...]] = ("settings",)

    def check(self, plan: Plan) -> None:
        """Raise UserError for settings that the method cannot serve, before anything is trained."""

    def copies_kept(self, rounds: int) -> int:
        """Return how many copies of all rows the method keeps on the hosts, for a training of so many rounds."""
        return 0

    def prepare(self, network: Network, situation: Situation) -> None:
        """Build, once a run, what depends on public data only."""

    def preparation(self) -> dict[str, Any] | None:
        """Return what :meth:`prepare` built and what that took, as ``PreparationEntry`` of the summary, or None."""
        return None

    def train(
        self, network: Network, situation: Situation, *, first: int = 0, every: int = 1, watch: Watcher | None = None
    ) -> None:
        """Run the training recipe on a network at the public start, or go on after ``first`` rounds of it.

        A method overrides this to record while training, or to train by a recipe of its own; its training is then
        never taken from the cache. ``watch`` wants to be called after every ``every`` rounds, and after the last. A
        training that goes on finds the rows, and what :meth:`state` gave, as they were in such a call; an override that
        does not take ``first`` always begins again.
        """
        train(network, situation.training, first=first, every=every, watch=watch)

    @property
    def trains_itself(self) -> bool:
        """Whether what training leaves depends on the method."""
        return type(self).train is not Unlearner.train

    @property
    def continues_training(self) -> bool:
        """Whether a training that was interrupted can go on where it was."""
        return "first" in inspect.signature(type(self).train).parameters

    @property
    def trains_by_recipe(self) -> bool:
        """Whether rows take the local steps and the mixing of the recipe; a method that overrides :meth:`train` only to
        record on the way says so."""
        return not self.trains_itself

    def conclude(self, network: Network, situation: Situation) -> Outcome:
        """End the training of a network, by the same rule with and without the deleted data."""
        return Outcome(certificate_reason="the training of this method ends without a release")

    def observe(self, network: Network, request: DeletionRequest, situation: Situation) -> None:
        """Read the samples that are about to be deleted: the only chance, they are erased right afterwards."""

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Answer one request; the network holds the answer afterwards."""
        raise TypeError(f"{type(self).__name__} does not say how it answers a request")

    def state(self) -> dict[str, Any]:
        """Return what the method keeps from one call to the next, and the rows do not hold.

        Raises:
            TypeError: if it keeps something that it does not name.
        """
        unnamed = sorted(set(vars(self)) - set(self.keeps) - {*Unlearner.rebuilds, *self.rebuilds})
        if unnamed:
            raise TypeError(f"{type(self).__name__} keeps '{unnamed[0]}', and does not name it in `keeps`")
        return {name: getattr(self, name) for name in self.keeps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave, in a method of the same settings that has been checked and prepared."""
        for name, value in state.items():
            setattr(self, name, value)

    def controls(self, network: Network, situation: Situation) -> dict[str, Callable[[], Outcome]]:
        """Return named other ways to reach the answer, for comparison; they release nothing and change no row."""
        return {}

    def junk_start(self, network: Network, situation: Situation) -> Callable[[], Outcome] | None:
        """Return the same procedure from a public start that no training touched (docs/certificates.md, T6).

        Every certificate for a model that is not convex is printed beside what this gives, for a start that a
        certificate hides can help only so much. It may change the rows: it runs on the retrained twin, last of all.
        None where the answer does not depend on the start, or nothing is certified.
        """
        return None

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return two worlds whose distance is at least 0.9 of the claimed sensitivity, played by the release code.

        Called after an answer with a certificate; ``network`` holds the retained data. None: there is no such instance.
        """
        return None

    def natural_game(
        self, network: Network, before: Outcome, outcome: Outcome, retrained: Outcome, situation: Situation
    ) -> Game | None:
        """Return the worlds of this run, unlearned and retrained, for many fresh draws.

        ``before`` ended the training with the deleted data; ``network`` holds the retained data. None: the default,
        which noises the two outcomes' noise-free vectors as the certificate says.
        """
        return None
