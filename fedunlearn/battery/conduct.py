"""Conducting the battery on a finished run: which parts a level has, in which order, on which models."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.battery.expected import expected_seconds
from fedunlearn.battery.network_level import network_level
from fedunlearn.battery.planted import planted
from fedunlearn.battery.retold import Retold, cache_of, retell, seed_of
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.battery.shadows import train_shadows
from fedunlearn.battery.steps import Steps
from fedunlearn.battery.subject import Subject, subject_of
from fedunlearn.battery.traced import traced
from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks.shadow_game import shadow_game
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.attacks.threshold_attacks import threshold_attacks
from fedunlearn.evaluation.attacks.trained_attacks import trained_attacks
from fedunlearn.evaluation.attacks.two_models import two_models
from fedunlearn.evaluation.attacks.user_level import user_level
from fedunlearn.evaluation.effects.relearn import relearn
from fedunlearn.evaluation.effects.side_effects import side_effects
from fedunlearn.evaluation.gap import gaps
from fedunlearn.evaluation.measure import Found, Refusal, together
from fedunlearn.evaluation.output_distance import output_distances, zrf
from fedunlearn.evaluation.outputs import Outputs, SetName
from fedunlearn.evaluation.populations.populations import populations
from fedunlearn.network.workers import kept_on
from fedunlearn.results.reading import Run
from fedunlearn.simulation.learning import vector_of
from fedunlearn.simulation.world import Progress

MIA_OF_GAP = "svc_confidence_forget_called_nonmember"
"""The attack whose value enters the average gap and ToW-MIA, as in SalUn's tables (Fan 2310.12508)."""


@dataclass(frozen=True)
class Evaluation:
    """What a battery found about a run.

    Attributes:
        found: lines, refusals and curves.
        run: the run.
        settings: of the battery.
        settings_sha256: of the run's settings file.
        samples: size of every set.
        seconds: by step.
        retold: whether telling the story again gave the run's own models: ``same`` and the ``largest_difference`` of a
            parameter; None where it was not told again.
        cached: keys of the trainings in the cache that saw deleted samples.
    """

    found: Found
    run: Run
    settings: BatterySettings
    settings_sha256: str
    samples: dict[str, int]
    seconds: dict[str, float]
    retold: dict[str, Any] | None
    cached: list[str]


@kept_on()
def evaluate(path: Path, settings: BatterySettings, *, progress: Progress | None = None) -> Evaluation:
    """Measure a finished run.

    Args:
        path: its folder; nothing is written there.
        settings: level and effort.
        progress: called as ``progress(phase, done, total)``; the phase ``battery`` is the whole, in seconds.

    Raises:
        UserError: for a folder that is not a finished run of this version, data that are not the run's, or a false
            positive rate that the samples cannot resolve.
    """
    tell = progress or (lambda phase, done, total: None)
    subject = subject_of(path, tell)
    samples: dict[str, int] = {name: len(part.labels) for name, part in subject.sets.items()}
    refuse_unresolved(settings.false_positive_rates, samples)
    took = subject.run.summary.get("seconds", {})
    steps = Steps(expected_seconds(subject.world, took, samples, settings), tell)
    parts: list[Found] = []
    vectors: dict[str, NDArray[np.float32]] = dict(subject.vectors)
    retold_entry: dict[str, Any] | None = None
    nodes: dict[str, NDArray[np.float64]] | None = None
    with ExitStack() as stack:
        if settings.level != "quick":
            with steps.step("retell") as report:
                retold = stack.enter_context(retell(subject.fresh(report), settings.seed))
                vectors["control"] = np.array(vector_of(retold.control, retold.control_outcome))
                retold_entry = compare_with_run(subject, retold)
                nodes = node_accuracies(retold)
            with steps.step("network") as report:
                parts.append(network_level(retold, settings, report))
            if settings.backdoor:
                twins = {"retrained": retold.twin, "control": retold.control}
                with steps.step("backdoor") as report:
                    parts.append(
                        planted(
                            subject.fresh(report), vectors["retrained"], vectors["control"], settings, report,
                            twins=twins,
                        )
                    )  # fmt: skip
    shadow: ShadowMargins | None = None
    if settings.level == "full":
        with steps.step("shadow models") as report:
            world = subject.fresh(report)
            shadow = train_shadows(
                world, settings.shadows, settings.seed, subject.sets, subject.outputs_on, report
            )  # fmt: skip
    with steps.step("models"):
        answers = {name: subject.outputs(vector) for name, vector in vectors.items()}
        parts += _of_models(subject, answers, settings, nodes)
    if shadow is not None:
        with steps.step("shadow attacks"):
            parts.append(shadow_game(answers, shadow, rates=settings.false_positive_rates, seed=settings.seed))
            parts.append(populations(answers, shadow, seed=settings.seed))
    with steps.step("membership of clients"):
        parts.append(user_level(answers, shadow, subject.left_clients))
    with steps.step("relearning"):
        forget, training = subject.sets["forget"], subject.world.experiment.training
        parts.append(
            relearn(
                subject.world.model, vectors, forget.inputs, forget.labels, lr=training.lr, batch=training.batch,
                steps=settings.relearn_steps, seed=settings.seed,
            )
        )  # fmt: skip
    found = together(parts)
    if settings.level != "quick" and settings.trace_rounds and "network" in found.curves:
        with steps.step("rounds") as report:
            found = with_rounds(found, traced(subject.fresh(report), settings, report))
    steps.finish()
    return Evaluation(
        found, subject.run, settings, subject.settings_sha256, samples, dict(steps.seconds), retold_entry,
        cache_of(subject.world, subject.evaluator).holding(subject.deleted),
    )  # fmt: skip


def _of_models(
    subject: Subject, answers: Mapping[str, Mapping[SetName, Outputs]], settings: BatterySettings,
    nodes: Mapping[str, NDArray[np.float64]] | None,
) -> list[Found]:  # fmt: skip
    """Return what the models' outputs say, without anything else having to be trained."""
    rates, seed = settings.false_positive_rates, settings.seed
    trained = trained_attacks(answers, seed=seed)
    start = subject.world.model.initial(seed_of(seed, "random model", 0))
    random = subject.outputs_on(start, subject.sets["forget"])
    return [
        threshold_attacks(answers, rates=rates, seed=seed),
        trained,
        two_models(answers, rates=rates, seed=seed),
        output_distances(answers),
        zrf(answers, random),
        gaps(answers, mia_of(trained)),
        side_effects(answers, node_accuracies=nodes, seed=seed),
    ]


def mia_of(found: Found) -> dict[str, float] | None:
    """Return by model the value of the attack that enters the average gap, or None if it was refused."""
    for measure in found.measures:
        if measure.name == MIA_OF_GAP:
            columns = ("original", "unlearned", "retrained", "control")
            estimates = {name: getattr(measure, name) for name in columns}
            return {name: estimate.value for name, estimate in estimates.items() if estimate is not None}
    return None


def with_rounds(found: Found, rounds: dict[str, Any] | Refusal) -> Found:
    """Return what was found with the course over rounds in the network's curves, or the refusal among the others."""
    if isinstance(rounds, Refusal):
        return Found(found.measures, (*found.refusals, rounds), found.curves)
    network = {**found.curves["network"], "rounds": rounds}
    return Found(found.measures, found.refusals, {**found.curves, "network": network})


def node_accuracies(retold: Retold) -> dict[str, NDArray[np.float64]]:
    """Return the test accuracy of every node's own model (N,) before and after the answer, and in the twins."""
    networks = {
        "original": retold.before, "unlearned": retold.network, "retrained": retold.twin, "control": retold.control
    }  # fmt: skip
    return {name: retold.evaluator.nodes(network)[:, 0] for name, network in networks.items()}


def compare_with_run(subject: Subject, retold: Retold) -> dict[str, Any]:
    """Return how far the models of the story told again are from those in the run's folder."""
    told = {
        "unlearned": vector_of(retold.network, retold.outcome),
        "retrained": vector_of(retold.twin, retold.twin_outcome),
    }
    gap = max(float(np.abs(vector - subject.vectors[name]).max()) for name, vector in told.items())
    if gap and subject.world.experiment.privacy.noise == "secret":
        return {"same": False, "largest_difference": None, "reason": "the run's noise is secret and was drawn anew"}
    return {"same": gap == 0.0, "largest_difference": gap, "reason": None}


def refuse_unresolved(rates: tuple[float, ...], samples: Mapping[str, int]) -> None:
    """Raise UserError if a stated false positive rate is smaller than one sample of a set that it is counted on."""
    for name in ("forget", "test"):
        if rates and min(rates) * samples[name] < 1:
            raise UserError(
                f"false_positive_rates = {min(rates):g} needs at least {int(np.ceil(1 / min(rates)))} samples in the "
                f"{name} set to count false positives on, and there are {samples[name]}"
            )
