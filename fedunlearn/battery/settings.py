"""Settings of the battery."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fedunlearn.settings import Settings

Level = Literal["quick", "standard", "full"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "full")


class BatterySettings(Settings):
    """What is measured about a finished run, and how thoroughly.

    ``quick`` looks at the released models alone. ``standard`` tells the run's story again, looks into the network and
    follows the deleted client's influence over the rounds of training. ``full`` also trains shadow models.
    """

    level: Level = Field(default="standard", description="quick, standard or full")
    shadows: int = Field(default=16, ge=2, description="full: pairs of shadow models, with and without the forget set")
    false_positive_rates: tuple[float, ...] = Field(
        default=(), description="rates at which true positives are told; by default 0.1, 0.01 and 0.001 if resolvable"
    )
    relearn_steps: int = Field(default=100, ge=1, description="most steps of learning the forget set again")
    recovery_rounds: int = Field(default=20, ge=1, description="most rounds of training after the answer")
    backdoor: bool = Field(default=True, description="standard, full: plant a trigger in the forget set")
    trace_rounds: bool = Field(default=True, description="standard, full: follow the influence over rounds")
    seed: int = Field(default=1, ge=0, description="seed of the battery: shadow models, halves, resamples")

    @field_validator("false_positive_rates")
    @classmethod
    def _rates(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        for rate in rates:
            if not 0 < rate < 1:
                raise ValueError(f"a false positive rate lies strictly between 0 and 1, not {rate:g}")
        return tuple(sorted(set(rates), reverse=True))
