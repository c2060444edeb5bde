"""How long the steps of a battery are expected to take, from the seconds that the run itself took for its phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedunlearn.battery.settings import BatterySettings
from fedunlearn.battery.traced import POINTS
from fedunlearn.evaluation.nodes.reach import LARGE
from fedunlearn.simulation import World

_OPENING = 0.5
"""Seconds to open the hosts of a network: samples are handed over, and rows laid out."""
_STARTING = 3.0
"""Seconds more where workers are started for them; those of the first two networks serve all later ones."""
_IMAGE, _ROW = 5e-5, 2e-6
"""Seconds for what a model says about one sample, an image or a row of numbers."""


def expected_seconds(
    world: World, took: Mapping[str, Any], sizes: Mapping[str, int], settings: BatterySettings
) -> dict[str, float]:
    """Return the seconds of every step, in order.

    Args:
        world: the run.
        took: seconds of its phases; a training that was found in the cache counts with its seconds at the time.
        sizes: samples of every set.
        settings: of the battery.
    """
    train, again, answer = (float(took.get(name) or 1.0) for name in ("train", "retrain", "unlearn"))
    again /= max(1, len(world.requests))  # only the last twin is trained here
    experiment, nodes = world.experiment, world.graph.number_of_nodes()
    said, size = _IMAGE if world.model.takes_images else _ROW, sum(sizes.values())
    start = _OPENING + (0.0 if experiment.runtime.workers == 0 else _STARTING)
    cached = experiment.runtime.cache and experiment.privacy.noise != "secret" and not world.unlearner.trains_itself
    shown = min(nodes, LARGE) * said * (min(500, sizes["forget"]) + experiment.evaluation.node_samples)
    steps: dict[str, float] = {}
    if settings.level != "quick":
        controls = 1 if world.model.convex or experiment.model.checkpoint else 2
        steps["retell"] = start + answer + again * controls + (0.0 if cached else train + again)
        rounds = settings.recovery_rounds * train / max(1, experiment.training.rounds)
        steps["network"] = 0.3 + 4 * shown + rounds + settings.recovery_rounds * shown
        if settings.backdoor:
            steps["backdoor"] = start + train + answer
    if settings.level == "full":
        steps["shadow models"] = settings.shadows * (_OPENING + train + again + answer + 3 * said * size)
    steps["models"] = 0.3 + 4 * said * size + 1e-4 * size
    if settings.level == "full":
        steps["shadow attacks"] = 0.2 + 1e-5 * size * settings.shadows
    steps["membership of clients"] = 0.1
    # a step of learning costs about three looks, and the whole forget set is looked at after some of them
    learned = 3 * experiment.training.batch * settings.relearn_steps + 30 * sizes["forget"]
    steps["relearning"] = 0.1 + 4 * said * learned
    if settings.level != "quick" and settings.trace_rounds:
        steps["rounds"] = _OPENING + train + 2 * again + 3 * POINTS * shown
    return steps
