"""What every unlearning method is given, and what it must give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
    released last; ``hashes`` are those of the settings. ``persist`` stores a release before anybody receives it: the
    noise of a state is never drawn twice, also when a run is killed and taken up again. With ``cache`` what depends on
    public data alone may be kept on disk for later runs.
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

    A method overrides :meth:`unlearn`, and the rest where it needs to.
    """

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

    def train(self, network: Network, situation: Situation, *, every: int = 1, watch: Watcher | None = None) -> None:
        """Run the training recipe on a network at the public start.

        A method overrides this to record while training, or to train by a recipe of its own; its training is then
        never taken from the cache. ``watch`` wants to be called after every ``every`` rounds, and after the last.
        """
        train(network, situation.training, every=every, watch=watch)

    @property
    def trains_itself(self) -> bool:
        """Whether what training leaves depends on the method."""
        return type(self).train is not Unlearner.train

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
