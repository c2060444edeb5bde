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
from fedunlearn.randomness import generator, uniforms

NUM_CLASSES = 62
SIDE = 28
_FINE = 4  # field pixels to an image pixel
_FIELD = 192  # side of a distance field; the glyph fills the middle third to half, the margin is room for styles
_STEPS = 4  # field distances are stored in quarters of a field pixel
_VARIANTS = 4  # repetitions of a writer's hand, slightly different
_JITTER = 3  # a sample is shifted by up to this many field pixels
_STYLE = ("slant", "turn", "width", "height", "right", "down", "wave", "pace", "phase", "pen", "soft")


def load_writers(settings: DataSettings) -> SourceData:
    """Generate ``settings.writers`` writers with ``settings.samples_per_writer`` images each; labels are uniform."""
    images, labels = generate(settings.writers, settings.samples_per_writer, settings.seed)
    return SourceData(
        inputs=images,
        labels=labels,
        class_names=tuple(f"glyph {c}" for c in range(NUM_CLASSES)),
        provenance=f"generated glyphs in a writer's style, synthetic (seed {settings.seed})",
        owner=np.repeat(np.arange(settings.writers, dtype=np.int64), settings.samples_per_writer),
        client_names=tuple(f"synthetic writer {w}" for w in range(settings.writers)),
        synthetic=True,
    )


def generate(writers: int, samples: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (writers * samples, 28, 28), ink bright, and labels 0..61, grouped by writer."""
    fields = glyph_fields().reshape(-1)
    images = np.empty((writers, samples, SIDE * SIDE), dtype=np.uint8)
    labels = np.empty((writers, samples), dtype=np.int64)
    numbers = np.arange(samples)
    for w in range(writers):
        u = uniforms(seed, "writers.sample", w, numbers[:, None], np.arange(4)[None, :])
        labels[w] = (u[:, 0] * NUM_CLASSES).astype(np.int64)
        variant = (u[:, 1] * _VARIANTS).astype(np.int64)
        shift = np.floor((u[:, 2:] * 2 - 1) * (_JITTER + 0.5) + 0.5).astype(np.int32)
        start = labels[w].astype(np.int32) * _FIELD**2 + shift[:, 0] * _FIELD + shift[:, 1]
        style = _style(seed, w)
        places = _grid(style, seed, w)[variant]
        places += start[:, None]
        np.take(_pen(style), np.take(fields, places), out=images[w])
    return images.reshape(-1, SIDE, SIDE), labels.reshape(-1)


def _style(seed: int, writer: int) -> dict[str, float]:
    """Return the writer's style, every entry uniform in [-1, 1)."""
    u = uniforms(seed, "writers.style", writer, np.arange(len(_STYLE))) * 2 - 1
    return dict(zip(_STYLE, u.tolist()))


def _grid(style: dict[str, float], seed: int, writer: int) -> NDArray[np.int32]:
    """Return where in a flat field each image pixel looks, (variants, 784), after the writer's bend and scale."""
    hand = uniforms(seed, "writers.hand", writer, np.arange(_VARIANTS)[:, None], np.arange(3)[None, :]) * 2 - 1
    turn = 0.22 * style["turn"] + 0.08 * hand[:, 0]
    slant = 0.45 * style["slant"] + 0.08 * hand[:, 1]
    size = 1.0 + 0.05 * hand[:, 2]
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    y = (axis[:, None] - 2 * style["down"])[None]
    x = (axis[None, :] - 2 * style["right"])[None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    # The inverse map, from the image to the field: turn back, unslant, unscale, then wave.
    across, along = cos * x + sin * y, cos * y - sin * x
    across = (across + slant[:, None, None] * along) / (size * (1.0 + 0.2 * style["width"]))[:, None, None]
    along = along / (size * (1.0 + 0.2 * style["height"]))[:, None, None]
    pace, phase = 0.25 + 0.1 * style["pace"], np.pi * style["phase"]
    across = across + 1.2 * style["wave"] * np.sin(pace * along + phase)
    margin = _JITTER + 1
    middle = (_FIELD - 1) / 2
    rows = np.clip(np.rint(along * _FINE + middle), margin, _FIELD - 1 - margin).astype(np.int32)
    columns = np.clip(np.rint(across * _FINE + middle), margin, _FIELD - 1 - margin).astype(np.int32)
    return (rows * _FIELD + columns).reshape(_VARIANTS, -1)


def _pen(style: dict[str, float]) -> NDArray[np.uint8]:
    """Return the ink (256,) that the writer's pen leaves at each stored distance from the stroke."""
    distance = np.arange(256) / (_STEPS * _FINE)
    width, soft = 1.15 + 0.55 * style["pen"], 0.9 + 0.35 * style["soft"]
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
