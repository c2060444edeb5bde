"""Settings of the models room."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from fedunlearn.paths import stays_inside
from fedunlearn.settings import Settings

_OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
BUILT_IN = ("softmax", "mlp", "small-cnn", "deep-cnn", "leaf-cnn", "resnet18-gn")


class ModelSettings(Settings):
    """The model every node trains.

    ``features = "raw"`` feeds pixels scaled by the public constant 1/255; ``"unit"`` feeds ``[x/||x||, 1]/sqrt(2)``
    (norm at most one, bias entry included, as the rounding bound of the tolerance certificate needs); ``"frozen"``
    feeds ``[f/||f||, 1]/sqrt(2)``, where ``f`` comes from an extractor trained on public clients only.
    """

    name: str = Field(default="softmax", description="a built-in model, or 'package.module:Class' of a torch Module")
    features: str = Field(default="raw", pattern="^(raw|unit|frozen)$")
    activation: str = Field(default="relu", pattern="^(relu|smelu)$")
    smelu_width: float = Field(default=0.5, gt=0, description="half width of SmeLU's quadratic part")
    hidden: tuple[int, ...] = Field(default=(128,), description="mlp: widths of the hidden layers")
    checkpoint: str | None = Field(default=None, description="safetensors file to start from, trained elsewhere")
    extractor: str = Field(default="deep-cnn", description="frozen features: the network, named as in model.name")
    extractor_width: int = Field(default=64, ge=1, description="frozen features: outputs of that network, the features")
    extractor_epochs: int = Field(default=30, ge=1)
    extractor_lr: float = Field(default=0.03, gt=0, description="highest learning rate; it rises, then falls to zero")
    extractor_batch: int = Field(default=32, ge=1)
    extractor_augment: bool = Field(default=True, description="distort the public images anew in every epoch")

    _inside = field_validator("checkpoint")(stays_inside)

    @field_validator("name", "extractor")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in BUILT_IN and not _OWN.fullmatch(value):
            raise ValueError(f"must be one of {', '.join(BUILT_IN)} or 'package.module:Class'")
        return value
