"""The models room: networks as functions of one flat vector, their derivatives, and frozen public features."""

from fedunlearn.models.checkpoint import read_checkpoint, write_checkpoint
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

__all__ = [
    "Model",
    "ModelSettings",
    "build_model",
    "fisher_blocks_sum",
    "fisher_diagonal_sum",
    "fisher_sum",
    "gradient_sum",
    "hessian_sum",
    "hvp_sum",
    "loss_sum",
    "per_sample_gradients",
    "read_checkpoint",
    "write_checkpoint",
]
