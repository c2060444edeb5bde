"""The evaluation room: how good a model is, how far it is from the retrained one, and what its losses give away.

It is the only room that may open the escrow of deleted samples, and it only measures: nothing here changes a model.
"""

from fedunlearn.evaluation.attacks.membership import auc_interval, loss_threshold_auc, threshold_balanced_accuracy
from fedunlearn.evaluation.distance import parameter_distances, prediction_distances, total_variation
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.evaluation.utility import accuracy_and_loss, losses, probabilities

__all__ = [
    "EvaluationSettings",
    "accuracy_and_loss",
    "auc_interval",
    "loss_threshold_auc",
    "losses",
    "parameter_distances",
    "prediction_distances",
    "probabilities",
    "threshold_balanced_accuracy",
    "total_variation",
]
