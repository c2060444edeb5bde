"""A generated set in the manner of FEMNIST, for scale: any number of writers, each with a hand of their own.

Sixty-two invented glyphs are drawn once as strokes (no font, no real handwriting) and held as distance fields. A writer
is a slant, a rotation, a scale for each axis, an offset, a waviness and a pen; an image is the glyph's distance field
looked up at the writer's bent grid and turned into ink by the writer's pen. Both steps are table look-ups, so a core
makes some hundred thousand images a second. Every image depends only on (seed, writer, its number): more writers never
change those that were there.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import SourceData
from fedunlearn.data.sources.writer_sizes import femnist_sizes
from fedunlearn.randomness import generator, uniforms

NUM_CLASSES = 62
SIDE = 28
_FINE = 4  # field pixels to an image pixel
_FIELD = 192  # side of a distance field; the glyph fills the middle third to half, the margin is room for styles
_STEPS = 4  # field distances are stored in quarters of a field pixel
_VARIANTS = 4  # repetitions of a writer's hand, slightly different
_TOGETHER = 1024  # images that are made together
_JITTER = 3  # a sample is shifted by up to this many field pixels
_STYLE = ("slant", "turn", "width", "height", "right", "down", "wave", "pace", "phase", "pen", "soft")


def load_writers(settings: DataSettings) -> SourceData:
    """Generate ``settings.writers`` writers with ``settings.samples_per_writer`` images each; labels are uniform."""
    if settings.samples_per_writer == "femnist":
        sizes = femnist_sizes(settings.writers, settings.seed)
    else:
        sizes = np.full(settings.writers, settings.samples_per_writer, dtype=np.int64)
    images, labels = generate(sizes, settings.seed, settings.glyphs)
    return SourceData(
        inputs=images,
        labels=labels,
        class_names=tuple(f"glyph {c}" for c in range(settings.glyphs)),
        provenance=f"generated glyphs in a writer's style, synthetic (seed {settings.seed})",
        owner=np.repeat(np.arange(settings.writers, dtype=np.int64), sizes),
        client_names=tuple(f"synthetic writer {w}" for w in range(settings.writers)),
        synthetic=True,
    )


def generate(
    sizes: NDArray[np.int64], seed: int, classes: int = NUM_CLASSES
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 28, 28), ink bright, and labels (n,) below ``classes``; ``sizes`` are the writers' numbers."""
    images = np.empty((int(sizes.sum()), SIDE, SIDE), dtype=np.uint8)
    labels = np.empty(len(images), dtype=np.int64)
    generate_into(images, labels, sizes, seed, classes)
    return images, labels


def generate_into(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    sizes: NDArray[np.int64],
    seed: int,
    classes: int = NUM_CLASSES,
) -> None:
    """Write the images (n, 28, 28) and labels (n,) of writers with ``sizes`` images each, writer after writer."""
    fields, flat = glyph_fields().reshape(-1), images.reshape(len(images), -1)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    low = 0
    while low < len(sizes):
        high = max(low + 1, int(np.searchsorted(starts, starts[low] + _TOGETHER, side="right")) - 1)
        hands = np.arange(low, high)
        writer = np.repeat(hands, sizes[low:high])
        number = np.arange(starts[low], starts[high]) - starts[writer]
        u = uniforms(seed, "writers.sample", writer[:, None], number[:, None], np.arange(4)[None, :])
        drawn = (u[:, 0] * classes).astype(np.int64)
        variant = (u[:, 1] * _VARIANTS).astype(np.int64)
        shift = np.floor((u[:, 2:] * 2 - 1) * (_JITTER + 0.5) + 0.5).astype(np.int32)
        style = _styles(seed, hands)
        places = _grids(style, seed, hands)[(writer - low) * _VARIANTS + variant]
        places += (drawn.astype(np.int32) * _FIELD**2 + shift[:, 0] * _FIELD + shift[:, 1])[:, None]
        distances = np.take(fields, places)
        labels[starts[low] : starts[high]] = drawn
        for pen, first, last in zip(_pens(style), starts[low:high].tolist(), starts[low + 1 : high + 1].tolist()):
            np.take(pen, distances[first - starts[low] : last - starts[low]], out=flat[first:last])
        low = high


def _styles(seed: int, writers: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return the styles of the writers (w,), every entry (w,) uniform in [-1, 1)."""
    u = uniforms(seed, "writers.style", writers[:, None], np.arange(len(_STYLE))[None, :]) * 2 - 1
    return dict(zip(_STYLE, u.T))


def _grids(style: dict[str, NDArray[np.float64]], seed: int, writers: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return where in a flat field each image pixel looks, (w * variants, 784), after the writers' bend and scale."""
    numbers = np.arange(_VARIANTS)[None, :, None], np.arange(3)[None, None, :]
    hand = uniforms(seed, "writers.hand", writers[:, None, None], *numbers) * 2 - 1
    own = {name: values[:, None, None, None] for name, values in style.items()}
    turn = 0.22 * own["turn"] + 0.08 * hand[:, :, 0, None, None]
    slant = 0.45 * own["slant"] + 0.08 * hand[:, :, 1, None, None]
    size = 1.0 + 0.05 * hand[:, :, 2, None, None]
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    y = axis[:, None] - 2 * own["down"]
    x = axis[None, :] - 2 * own["right"]
    cos, sin = np.cos(turn), np.sin(turn)
    # The inverse map, from the image to the field: turn back, unslant, unscale, then wave.
    across, along = cos * x + sin * y, cos * y - sin * x
    across = (across + slant * along) / (size * (1.0 + 0.2 * own["width"]))
    along = along / (size * (1.0 + 0.2 * own["height"]))
    pace, phase = 0.25 + 0.1 * own["pace"], np.pi * own["phase"]
    across = across + 1.2 * own["wave"] * np.sin(pace * along + phase)
    margin = _JITTER + 1
    middle = (_FIELD - 1) / 2
    rows = np.clip(np.rint(along * _FINE + middle), margin, _FIELD - 1 - margin).astype(np.int32)
    columns = np.clip(np.rint(across * _FINE + middle), margin, _FIELD - 1 - margin).astype(np.int32)
    return (rows * _FIELD + columns).reshape(len(writers) * _VARIANTS, -1)


def _pens(style: dict[str, NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Return the ink (w, 256) that the writers' pens leave at each stored distance from the stroke."""
    distance = np.arange(256)[None, :] / (_STEPS * _FINE)
    width, soft = 1.15 + 0.55 * style["pen"][:, None], 0.9 + 0.35 * style["soft"][:, None]
    return np.rint(255 * np.clip((width - distance) / soft + 0.5, 0, 1)).astype(np.uint8)


@lru_cache(maxsize=1)
def glyph_fields() -> NDArray[np.uint8]:
    """Return the glyphs (62, 192, 192): distance to the nearest stroke in quarters of a field pixel, at most 255.

    The alphabet is always the same, whatever the seed. A glyph is a chain of quadratic curves over a lattice of three
    by four points, and one in two has a separate bar; a candidate too close to an earlier glyph is drawn again.
    """
    from scipy.ndimage import distance_transform_edt

    rng = generator(0, "writers.alphabet")
    out = np.empty((NUM_CLASSES, _FIELD, _FIELD), dtype=np.uint8)
    inks = np.empty((NUM_CLASSES, SIDE, SIDE))
    count = 0
    while count < NUM_CLASSES:
        empty = np.ones((_FIELD, _FIELD), dtype=bool)
        points = _strokes(rng)
        empty[points[:, 0], points[:, 1]] = False
        distance = distance_transform_edt(empty)
        middle = slice((_FIELD - SIDE * _FINE) // 2, (_FIELD + SIDE * _FINE) // 2, _FINE)
        ink = np.clip(1.5 - distance[middle, middle] / (2 * _FINE), 0, 1)
        ink /= np.linalg.norm(ink)
        if count and (inks[:count] * ink).sum(axis=(1, 2)).max() > 0.72:
            continue
        inks[count] = ink
        out[count] = np.minimum(np.rint(distance * _STEPS), 255)
        count += 1
    return out


def _strokes(rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the field pixels (k, 2) of one random glyph's strokes, row and column."""
    lattice = np.array([(r, c) for r in (-9.0, -3.0, 3.0, 9.0) for c in (-6.0, 0.0, 6.0)])
    chain = lattice[rng.choice(len(lattice), size=rng.integers(3, 6), replace=False)]
    t = np.linspace(0, 1, 400)[:, None]
    curves = []
    for start, end in pairwise(chain):
        bend = (start + end) / 2 + rng.uniform(-4, 4, size=2)
        curves.append((1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end)
    if rng.random() < 0.5:
        start, end = lattice[rng.choice(len(lattice), size=2, replace=False)]
        curves.append((1 - t) * start + t * end)
    return np.rint(np.concatenate(curves) * _FINE + (_FIELD - 1) / 2).astype(np.int64)
