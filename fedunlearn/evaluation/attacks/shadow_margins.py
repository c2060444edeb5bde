"""What shadow models say about the samples of a run: the one input of all attacks and scores over many models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.outputs import SetName

Margins = Mapping[SetName, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ShadowMargins:
    """Margins ``log(p_y / (1 - p_y))`` of 3K models of independent seeds on every set, (K, n) float64 each.

    Attributes:
        original: trained with the forget set.
        unlearned: the same models after the method answered the same requests.
        retrained: trained without the forget set, from other seeds.

    Raises ValueError unless all three have the same sets, K and n, and every margin is a finite number.
    """

    original: Margins
    unlearned: Margins
    retrained: Margins

    def __post_init__(self) -> None:
        shapes = {name: margins.shape for name, margins in self.original.items()}
        if "forget" not in shapes or any(len(shape) != 2 for shape in shapes.values()):
            raise ValueError(f"shadow margins need (K, n) arrays with a forget set among them, not {shapes}")
        for world in (self.original, self.unlearned, self.retrained):
            if {name: margins.shape for name, margins in world.items()} != shapes:
                raise ValueError("the three kinds of shadow models must have the same sets and shapes")
            if not all(np.isfinite(margins).all() for margins in world.values()):
                raise ValueError("a margin of a shadow model is not a finite number")
        if len({shape[0] for shape in shapes.values()}) != 1:
            raise ValueError("every set must have the margins of all shadow models")

    @property
    def count(self) -> int:
        """K, the number of models of each kind."""
        return len(self.original["forget"])
