"""What a run prepares from public data alone: the feature map and the public head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedunlearn.config import Experiment
from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.models import FeatureMap, public_head, train_extractor
from fedunlearn.results.cache import ContentCache, content_key, default_folder
from fedunlearn.simulation.training_cache import source_sha256
from fedunlearn.unlearning.base import PublicKnowledge

Progress = Callable[[str, int, int], None]
_FOLDER_LIMIT = 1 << 30
"""Largest folder of cached extractors, in bytes: what was stored first makes room."""


def prepare_features(
    experiment: Experiment, dataset: FederatedDataset, progress: Progress
) -> tuple[FeatureMap, PublicKnowledge | None]:
    """Return the feature map of the settings and what the public clients' records teach.

    The extractor, and the head fitted to the public clients' records, see no record that may be deleted; a session
    refuses an extractor that did. Without public clients there is no public knowledge. With ``runtime.cache`` the
    extractor is kept on disk under the hash of all that it depends on: public records, settings, seed, code.
    """
    settings = experiment.model
    clients = dataset.clients(Role.PUBLIC)
    rows = np.concatenate([np.zeros(0, np.int64), *(dataset.train_rows(int(c)) for c in clients)])
    inputs, labels = dataset.inputs[rows], dataset.labels[rows]
    if settings.features == "frozen":
        features = _extractor(experiment, dataset.num_classes, inputs, labels, rows, progress)
    else:
        features = FeatureMap(settings.features, dataset.input_shape)  # type: ignore[arg-type]
    if not len(rows):
        return features, None
    convex = settings.name == "softmax" and settings.features != "raw" and experiment.training.l2 > 0
    head = public_head(features, inputs, labels, dataset.num_classes, experiment.training.l2) if convex else None
    return features, PublicKnowledge(features.apply(inputs), labels, head)


def _extractor(
    experiment: Experiment, num_classes: int, inputs: NDArray[Any], labels: NDArray[np.int64],
    rows: NDArray[np.int64], progress: Progress,
) -> FeatureMap:  # fmt: skip
    entries = ContentCache(default_folder() / "extractor")
    key = content_key(_content(experiment, num_classes, inputs, labels, rows))
    found = entries.get(key) if experiment.runtime.cache else None
    if found is not None:
        with suppress(UserError, KeyError):  # an entry that does not fit is as good as none
            return FeatureMap.from_spec(found.info["spec"], found.arrays)
    made = train_extractor(
        inputs, labels, rows, experiment.model, num_classes, seed=experiment.seed, progress=progress
    )  # fmt: skip
    if experiment.runtime.cache:
        spec, arrays = made.to_spec()
        entries.put(key, arrays, {"spec": spec})
        entries.trim(_FOLDER_LIMIT)
    return made


def _content(
    experiment: Experiment, num_classes: int, inputs: NDArray[Any], labels: NDArray[np.int64], rows: NDArray[np.int64]
) -> dict[str, Any]:
    """Return all that an extractor depends on, as the table that is hashed."""
    settings = experiment.model.model_dump(mode="json")
    mine = {
        k: v for k, v in settings.items() if k.startswith("extractor") or k in ("activation", "smelu_width", "hidden")
    }
    arrays = {"inputs": inputs, "labels": labels, "rows": rows}
    hashes = {
        name: [str(array.dtype), list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
        for name, array in arrays.items()
    }
    return {
        "settings": mine, "classes": num_classes, "seed": experiment.seed, **hashes, "torch": torch.__version__,
        "source": source_sha256(),
    }  # fmt: skip
