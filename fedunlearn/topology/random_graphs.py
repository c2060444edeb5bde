"""Random graphs as edge arrays, drawn without a loop over pairs so that 100,000 vertices take seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bernoulli_positions(count: int, probability: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return, in ascending order, the successes among ``count`` independent trials.

    The gaps between successes are geometric (Batagelj and Brandes 2005, "Efficient generation of large random
    networks"), so time and memory grow with the number of successes and not with ``count``.
    """
    if count <= 0 or probability <= 0:
        return np.zeros(0, dtype=np.int64)
    if probability >= 1:
        return np.arange(count, dtype=np.int64)
    found: list[NDArray[np.int64]] = []
    last = -1
    while last < count:
        left = (count - last) * probability
        # A gap beyond the end ends the list whatever its size: clipping it keeps the running sum within 64 bits.
        gaps = np.minimum(rng.geometric(probability, size=int(left + 6 * np.sqrt(left) + 16)), count + 1)
        positions = last + np.cumsum(gaps)
        found.append(positions)
        last = int(positions[-1])
    joined = np.concatenate(found)
    return joined[joined < count]


def triangle_pairs(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Map 0, 1, 2, 3, ... to the pairs (0,1), (0,2), (1,2), (0,3), ...; shape (E, 2)."""
    high = np.floor((1 + np.sqrt(1 + 8 * index.astype(np.float64))) / 2).astype(np.int64)
    # The square root may be off by one unit for large indices.
    high -= high * (high - 1) // 2 > index
    high += (high + 1) * high // 2 <= index
    return np.stack([index - high * (high - 1) // 2, high], axis=1)


def stochastic_block_edges(
    sizes: NDArray[np.int64], within: float, between: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the edges of a planted partition: ``within`` a block and ``between`` two blocks; vertices block by block.

    One block gives the Erdős–Rényi (Gilbert) graph.
    """
    num_nodes = int(sizes.sum())
    block = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    parts = [
        start + triangle_pairs(bernoulli_positions(int(size) * (int(size) - 1) // 2, within, rng))
        for start, size in zip(starts, sizes)
    ]
    if len(sizes) > 1:
        # Pairs are independent, so drawing all of them and keeping those across blocks has the right law.
        across = triangle_pairs(bernoulli_positions(num_nodes * (num_nodes - 1) // 2, between, rng))
        parts.append(across[block[across[:, 0]] != block[across[:, 1]]])
    return np.concatenate(parts)


def equal_blocks(num_nodes: int, blocks: int) -> NDArray[np.int64]:
    """Return block sizes that add up to ``num_nodes`` and differ by at most one, larger ones first."""
    return np.array([num_nodes // blocks + (b < num_nodes % blocks) for b in range(blocks)], dtype=np.int64)


def geometric_edges(points: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Return the pairs of points, (N, 2), that are at most ``radius`` apart."""
    from scipy.spatial import cKDTree  # every run imports this module, few need that one

    return cKDTree(points).query_pairs(radius, output_type="ndarray").astype(np.int64)
