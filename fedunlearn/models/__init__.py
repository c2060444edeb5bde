"""The models room: networks as functions of one flat vector, their derivatives, and frozen public features."""

from fedunlearn.models.checkpoint import read_checkpoint, write_checkpoint
from fedunlearn.models.features import FeatureMap, public_head, train_extractor, unit_rows
from fedunlearn.models.model import Model, build_model
from fedunlearn.models.objective import (
    fisher_blocks_sum,
    fisher_diagonal_sum,
    fisher_sum,
    gradient_sum,
    hessian_sum,
    hvp_sum,
    loss_sum,
    per_sample_gradients,
)
from fedunlearn.models.settings import ModelSettings
from fedunlearn.models.softmax import gradient_norm_bound, rounding_bound

__all__ = [
    "FeatureMap",
    "Model",
    "ModelSettings",
    "build_model",
    "fisher_blocks_sum",
    "fisher_diagonal_sum",
    "fisher_sum",
    "gradient_norm_bound",
    "gradient_sum",
    "hessian_sum",
    "hvp_sum",
    "loss_sum",
    "per_sample_gradients",
    "public_head",
    "read_checkpoint",
    "rounding_bound",
    "train_extractor",
    "unit_rows",
    "write_checkpoint",
]
