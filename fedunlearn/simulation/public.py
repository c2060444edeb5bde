"""What a run prepares from public data alone: the feature map and the public head."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedunlearn.config import Experiment
from fedunlearn.data import FederatedDataset, Role
from fedunlearn.models import FeatureMap, public_head, train_extractor
from fedunlearn.unlearning.base import PublicKnowledge

Progress = Callable[[str, int, int], None]


def prepare_features(
    experiment: Experiment, dataset: FederatedDataset, progress: Progress
) -> tuple[FeatureMap, PublicKnowledge | None]:
    """Return the feature map of the settings and what the public clients' records teach.

    The extractor, and the head fitted to the public clients' records, see no record that may be deleted; a session
    refuses an extractor that did. Without public clients there is no public knowledge.
    """
    settings = experiment.model
    clients = dataset.clients(Role.PUBLIC)
    rows = np.concatenate([np.zeros(0, np.int64), *(dataset.train_rows(int(c)) for c in clients)])
    inputs, labels = dataset.inputs[rows], dataset.labels[rows]
    if settings.features == "frozen":
        features = train_extractor(
            inputs, labels, rows, settings, dataset.num_classes, seed=experiment.seed, progress=progress
        )
    else:
        features = FeatureMap(settings.features, dataset.input_shape)  # type: ignore[arg-type]
    if not len(rows):
        return features, None
    convex = settings.name == "softmax" and settings.features != "raw" and experiment.training.l2 > 0
    head = public_head(features, inputs, labels, dataset.num_classes, experiment.training.l2) if convex else None
    return features, PublicKnowledge(features.apply(inputs), labels, head)
