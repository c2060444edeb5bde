"""Settings of the privacy room."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedunlearn.settings import Settings


class PrivacySettings(Settings):
    """The certificate that is asked for, and where the release noise comes from."""

    epsilon: float = Field(default=1.0, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    noise: Literal["simulated", "secret"] = Field(
        default="simulated",
        description="simulated: derived from the seed, reproducible; secret: operating-system entropy",
    )
