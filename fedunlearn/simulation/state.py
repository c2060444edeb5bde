"""Everything that a run has come to between two stages of its story: what a checkpoint holds, and how it comes back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.evaluator import Evaluator, Snapshot
from fedunlearn.evaluation.influence import Influence
from fedunlearn.faults import buffered_copies
from fedunlearn.network import Network, Session
from fedunlearn.privacy import Certificate
from fedunlearn.privacy.certificate import Premise
from fedunlearn.results.checkpoints import Kept
from fedunlearn.simulation.journal import Journal
from fedunlearn.simulation.learning import Reading, new_network, situation_of
from fedunlearn.simulation.recording import Record
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.simulation.twins import Twins
from fedunlearn.simulation.world import World
from fedunlearn.unlearning.base import Cost, Outcome, Situation, Unlearner

_CLASSES = (Outcome, Cost, Certificate, Premise, Influence, Reading)


@dataclass
class State:
    """A run between two stages.

    Attributes:
        stage: how many stages are done.
        last: what the method handed back last; ``cost`` is what the answer took, where it was one.
        previous: what had been released before that answer.
        trained: a copy of all rows at the end of training, which the figure of moves compares with.
        before: what the network held before the request that was answered last.
        unknown: which of ``last`` (its noise-free vector), ``trained`` and ``before`` a checkpoint has left out: with
            secret noise nothing lies on disk beside a release that tells its noise.
    """

    world: World
    session: Session
    record: Record
    journal: Journal
    evaluator: Evaluator
    cache: TrainingCache
    network: Network
    twins: Twins
    stage: int = 0
    last: Outcome | None = None
    previous: NDArray[np.float32] | None = None
    cost: Cost | None = None
    trained: Network | None = None
    before: Snapshot | None = None
    unknown: set[str] = field(default_factory=set)

    @classmethod
    def begin(cls, world: World, session: Session, record: Record, journal: Journal, kept: Kept | None) -> State:
        """Return the state of a run that begins, or of one that goes on from a checkpoint.

        Raises:
            UserError: if a model file is not the one that the run wrote.
        """
        experiment = world.experiment
        evaluator = Evaluator(world.dataset, world.features, world.model, experiment.evaluation, experiment.seed)
        every = min(experiment.evaluation.every, max(1, experiment.training.rounds))
        cache = TrainingCache(world.dataset, evaluator, every=every, enabled=experiment.runtime.cache)
        networks: dict[str, Network] = {}
        if kept is None:
            network = new_network(world, session, "main", world.graph)
        else:
            networks = {
                plain["name"]: Network.from_state(session, plain, erase=plain["name"] == "main", trace=world.trace)
                for plain in kept.value["networks"]
            }
            network = networks["main"]
        twins = Twins(world, session, cache, record, journal, look=lambda: None)
        state = cls(world, session, record, journal, evaluator, cache, network, twins)
        twins.look = state.mid_training
        evaluator.put_node_test(network)
        with world.watch.phase("train"):
            world.unlearner.prepare(network, state.situation(0))
        if kept is None:
            record.describe(world.dataset, network, world.model)
            record.add_preparation(world.unlearner.preparation())
            record.cache["used"] = cache.enabled
        else:
            state._restore(kept.value, networks)
            if journal.secret and journal.checkpoints is not None:
                journal.checkpoints.clear(before=kept.number)
                journal.settle(record.releases)
        return state

    def situation(self, release: int, world_name: str = "main") -> Situation:
        """Return what a method is told."""
        previous = self.previous if world_name == "main" else None
        return situation_of(self.world, self.record, release, previous, world_name=world_name, journal=self.journal)

    @property
    def deleted(self) -> NDArray[np.int64]:
        """The ids of everything that the requests of the run delete, increasing."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(r.sample_ids for r in self.world.requests)]))

    # --- writing -----------------------------------------------------------------------------------------------------

    def after_stage(self, what: str, *, alone: bool) -> None:
        """Write a checkpoint where it is time for one; with ``alone`` in any case, and in place of all others."""
        with self.world.watch.aside():
            if alone or self.journal.due(self._size()):
                written = self.journal.write(self.plain, self._size(), what, alone=alone)
                if written and alone:
                    self.journal.settle(self.record.releases)

    def mid_training(self) -> None:
        """Write a checkpoint at a point of the learning curve, where it is time and the method can go on from there.

        Where training itself is noised with secret noise, it is begun again as a whole: nobody has seen any of it.
        """
        school, unlearner = self.twins.school, self.world.unlearner
        if school is None or not unlearner.continues_training:
            return
        if (self.journal.secret and not unlearner.trains_by_recipe) or not self.journal.due(self._size()):
            return
        rounds = self.world.experiment.training.rounds
        self.journal.write(self.plain, self._size(), f"round {school.round} of {rounds} of '{school.lessons[0].phase}'")

    def _networks(self) -> list[Network]:
        secret = self.journal.secret
        copies = [] if secret else [self.trained, self.before.rows if self.before is not None else None]
        found = [self.network, *copies, *self.twins.networks()]
        return list({network.name: network for network in found if network is not None}.values())

    def _size(self) -> int:
        """Return about how many bytes a checkpoint takes."""
        rounds = self.world.experiment.training.rounds
        late = buffered_copies(self.world.experiment.faults)
        copies = sum((2 if n.has_momentum else 1) + (late if n.course else 0) for n in self._networks())
        return 4 * self.network.num_nodes * self.network.dim * (copies + self.world.unlearner.copies_kept(rounds))

    def plain(self) -> dict[str, Any]:
        """Return the state in numbers, tables and arrays."""
        secret, last, unknown = self.journal.secret, self.last, set(self.unknown)
        if secret and last is not None and last.noise_free is not None:
            last = replace(last, noise_free=None)
            unknown.add("last")
        if secret:
            unknown |= {name for name in ("trained", "before") if getattr(self, name) is not None}
        before = None if secret or self.before is None else self.before
        watch = self.world.watch
        return {
            "stage": self.stage,
            "networks": [network.state() for network in self._networks()],
            "last": last,
            "previous": self.previous,
            "cost": self.cost,
            "trained": None if secret or self.trained is None else self.trained.name,
            "before": None if before is None else [before.vector, before.rows.name if before.rows else None],
            "unknown": sorted(unknown),
            "twins": self.twins.state(),
            "record": self.record.state(),
            "method": self.world.unlearner.state(),
            "copies": self.evaluator.copies,
            "seconds": dict(watch.seconds),
            "elapsed": watch.elapsed(),
        }

    # --- reading -----------------------------------------------------------------------------------------------------

    def _restore(self, plain: dict[str, Any], networks: dict[str, Network]) -> None:
        self.stage, self.last, self.unknown = plain["stage"], plain["last"], set(plain["unknown"])
        self.previous, self.cost = plain["previous"], plain["cost"]
        self.trained = None if plain["trained"] is None else networks[plain["trained"]]
        if plain["before"] is not None:
            vector, rows = plain["before"]
            self.before = Snapshot(vector, None if rows is None else networks[rows], self.network)
        self.twins.restore(plain["twins"], networks)
        self.record.restore(plain["record"])
        self.record.graph = self.world.graph
        self.world.unlearner.restore(plain["method"])
        self.evaluator.copies = plain["copies"]
        self.world.watch.go_on(plain["seconds"], plain["elapsed"])


def classes_of(unlearner: Unlearner) -> tuple[type, ...]:
    """Return the dataclasses that a checkpoint of a run with this method may hold."""
    return (*_CLASSES, *unlearner.keeps_classes)
