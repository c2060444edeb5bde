"""A run whose every premise holds, to be varied one fact at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedunlearn.privacy import RunFacts, calibrate

LAM = 1e-4


@pytest.fixture
def good_facts() -> Callable[..., RunFacts]:
    """Return a maker of facts at (1, 1e-5); keyword arguments replace single facts."""

    def make(**changes: Any) -> RunFacts:
        plan = calibrate(1, 1e-5, LAM)
        facts: dict[str, Any] = {
            "method": "newton",
            "granularity": "client",
            "lam": LAM,
            "l2_on_all_parameters": True,
            "convex_loss": True,
            "retained_objective": True,
            "retraining_always_stops": True,
            "tau": plan.tau,
            "gradient_norm": plan.tau / 2,
            "gradient_dtype": "float64",
            "rounding_bound": 2e-12,
            "softmax_loss": True,
            "features_bounded": True,
            "dim": 4030,
            "extractor": "public",
            "release": "one-vector",
            "nodes": 19,
            "fresh_draw": True,
            "sigma_drawn": plan.sigma,
            "start": "released",
            "state_erased": True,
            "retained_messages_only": True,
        }
        return RunFacts(**{**facts, **changes})

    return make


@pytest.fixture
def good_hashes() -> dict[str, str]:
    return {"settings.toml": "a" * 64, "extractor": "b" * 64, "extractor_training_rows": "c" * 64}
