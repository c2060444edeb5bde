"""Settings of ``newton``: what is refused at the door, and that the default mode is the provable one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fedunlearn.unlearning.certified.newton_settings import NewtonSettings


def test_the_default_is_provable_with_public_constants_only():
    settings = NewtonSettings()
    assert settings.mode == "provable" and settings.tolerance is None and settings.curvature_at == "public-head"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "newton"), ("target_sigma", 0.0), ("tolerance", -1e-7), ("curvature", "hessian"), ("damping", -1.0),
        ("max_steps", 0), ("max_products", 0), ("residual", 0.0), ("consensus", -1e-9), ("corrections", 0),
        ("recovery_lr", 0.0), ("message_radius", "large"), ("tolerence", 1e-7),
    ],
)  # fmt: skip
def test_values_outside_the_range_and_unknown_keys_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        NewtonSettings(**{key: value})


@pytest.mark.parametrize("radius", [0.5, "bound", None])
def test_a_message_radius_is_a_number_or_the_bound(radius):
    assert NewtonSettings(message_radius=radius).message_radius == radius
