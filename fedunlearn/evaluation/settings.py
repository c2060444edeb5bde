"""Settings of the evaluation room."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedunlearn.settings import Settings


class EvaluationSettings(Settings):
    """What is measured, and how often."""

    every: int = Field(default=5, ge=1, description="rounds between two points of the accuracy curve")
    max_samples: int = Field(default=5000, ge=1, description="largest number of samples of a set that is evaluated")
    node_samples: int = Field(
        default=500, ge=1, description="samples of the test set on which every single node is tested"
    )
    membership: bool = Field(default=True, description="loss-threshold membership inference with a retrained control")
    influence_rounds: int = Field(
        default=0, ge=0, description="follow the first leaver's influence for this many rounds (0: do not)"
    )
    twins: Literal["in-turn", "side-by-side"] = Field(
        default="in-turn",
        description="train a retrained twin when its request was answered, or all of them with the original network",
    )
    controls: bool = Field(
        default=False, description="also reach the answer from starts without private data, and compare"
    )
