"""How many samples FEMNIST's writers have.

LEAF counts 3,550 writers with 805,263 samples, 226.83 a writer with standard deviation 88.94 (Caldas et al. 2018,
table 1). The shape of the distribution, a gamma distribution, is an assumption.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedunlearn.randomness import uniforms

WRITERS, SAMPLES = 3550, 805_263
_MEAN, _DEVIATION = SAMPLES / WRITERS, 88.94
_LEAST = 10


def femnist_sizes(writers: int, seed: int, real: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return how many samples each of ``writers`` generated writers has, (writers,), at least ten.

    ``real`` are the numbers of the real writers beside them: mean and deviation are then those that FEMNIST's other
    writers must have. A writer's number depends on the seed, its place and ``real`` only, not on ``writers``.
    """
    from scipy.special import gammaincinv  # every run imports this module, few need that one

    mean, deviation = _MEAN, _DEVIATION
    if real is not None and 0 < len(real) < WRITERS:
        missing = WRITERS - len(real)
        squares = WRITERS * (_MEAN**2 + _DEVIATION**2) - float((real.astype(np.float64) ** 2).sum())
        left = (SAMPLES - int(real.sum())) / missing
        spread = squares / missing - left**2
        if left > _LEAST and spread > 0:  # files with other sizes than FEMNIST's tell nothing about the rest
            mean, deviation = left, spread**0.5
    shape = (mean / deviation) ** 2
    u = uniforms(seed, "writers.size", np.arange(writers))
    return np.maximum(_LEAST, np.rint(gammaincinv(shape, u) * mean / shape)).astype(np.int64)
