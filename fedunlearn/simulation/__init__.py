"""The story of a run, from an experiment to a run directory: :func:`simulate` tells it, :func:`estimate` before it."""

from fedunlearn.simulation.forecast import estimate
from fedunlearn.simulation.story import RunResult, simulate
from fedunlearn.simulation.world import World, choose_device, prepare

__all__ = ["RunResult", "World", "choose_device", "estimate", "prepare", "simulate"]
