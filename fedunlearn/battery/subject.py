"""What a battery looks at: a finished run, its world made again, its models, and the samples they are asked about."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.retold import all_deleted, evaluator_of
from fedunlearn.config import load_experiment
from fedunlearn.data import Escrow
from fedunlearn.errors import UserError
from fedunlearn.evaluation.evaluator import Evaluator, SampleSet
from fedunlearn.evaluation.outputs import Outputs, SetName, outputs_of
from fedunlearn.results.finished import finished_run
from fedunlearn.results.reading import Run
from fedunlearn.results.run_names import SETTINGS
from fedunlearn.simulation import World, prepare
from fedunlearn.simulation.world import Progress

MODELS = ("original", "unlearned", "retrained")


@dataclass(frozen=True)
class Subject:
    """A finished run with everything that is needed to measure it.

    Attributes:
        run: what its folder says.
        world: data, graph, model, requests and a method that has not been used; take copies by :meth:`fresh`.
        evaluator: the sample sets of the run's own evaluation.
        deleted: ids of all samples that the requests deleted.
        sets: samples by name; ``never_member`` is missing where the data have no never-members.
        vectors: the run's released models (d,) float32.
        settings_sha256: of the run's settings file.
    """

    run: Run
    world: World
    evaluator: Evaluator
    deleted: NDArray[np.int64]
    sets: dict[SetName, SampleSet]
    vectors: dict[str, NDArray[np.float32]]
    settings_sha256: str

    def fresh(self, progress: Progress | None = None) -> World:
        """Return the world with a method of its own that has not been used."""
        return replace(
            self.world, unlearner=copy.deepcopy(self.world.unlearner), progress=progress or self.world.progress
        )

    def outputs(self, vector: NDArray[np.float32]) -> dict[SetName, Outputs]:
        """Return what a model says about every set."""
        return {name: self.outputs_on(vector, samples) for name, samples in self.sets.items()}

    def outputs_on(self, vector: NDArray[np.float32], samples: SampleSet) -> Outputs:
        """Return what a model says about one set; UserError if its outputs are not finite numbers."""
        clients = self.world.dataset.client_of[samples.rows]
        found = outputs_of(self.world.model, vector, samples.inputs, samples.labels, samples.rows, clients)
        if not np.isfinite(found.logits).all():
            raise UserError(
                f"{self.run.path}: a model's outputs hold NaN or infinity, so it diverged and nothing can be said "
                "about what it forgot (allowed: a run whose models are finite)"
            )
        return found

    @property
    def left_clients(self) -> list[int]:
        """Clients of the forget set, as the data set numbers them, that deleted all their samples, increasing."""
        owners = self.world.dataset.client_of[self.sets["forget"].rows]
        rows = {int(c): self.world.dataset.train_rows(int(c)) for c in np.unique(owners)}
        return [c for c, own in rows.items() if np.isin(own, self.deleted).all()]


def subject_of(path: Path, progress: Progress) -> Subject:
    """Read a finished run and make its world again.

    Raises:
        UserError: if the folder is not a finished run of this version, the run has no request, or the data are not
            those that it was made with.
    """
    run = finished_run(path, with_requests=True)
    experiment = load_experiment(path / SETTINGS)
    if experiment.faults.enabled:
        raise UserError(
            f"{path}: a run with [faults] is not measured by the battery, whose shadow models and traces train without "
            "faults (allowed: a run without [faults])"
        )
    world = prepare(experiment, progress)
    _refuse_other_data(path, run, world)
    evaluator, deleted = evaluator_of(world), all_deleted(world)
    forget = evaluator.sample_set(Escrow(world.dataset, deleted).open(purpose="evaluation").rows)
    retain = evaluator.sample_set(np.setdiff1d(evaluator.train_rows, deleted))
    sets: dict[SetName, SampleSet] = {"forget": forget, "retain": retain, "test": evaluator.test}
    if evaluator.never_member is not None:
        sets["never_member"] = evaluator.never_member
    vectors = {name: _model(run, name, world) for name in MODELS}
    sha256 = hashlib.sha256((path / SETTINGS).read_bytes()).hexdigest()
    return Subject(run, world, evaluator, deleted, sets, vectors, sha256)


def _model(run: Run, name: str, world: World) -> NDArray[np.float32]:
    vector = run.model(name)[0]
    if vector.shape != (world.model.dim,):
        raise UserError(
            f"{run.path}: model '{name}' has {len(vector)} parameters, and the run's settings make one of "
            f"{world.model.dim}"
        )
    return np.asarray(vector, dtype=np.float32)


def _refuse_other_data(path: Path, run: Run, world: World) -> None:
    there, here = run.summary["data"].get("sha256"), world.dataset.sha256()
    if there != here:
        raise UserError(
            f"'{path}' was made with other data than those found now (sha256 {str(there)[:12]}…, not {here[:12]}…)"
        )
