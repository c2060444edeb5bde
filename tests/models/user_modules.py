"""Modules of a user's own, good and bad, for the import-path tests."""

from __future__ import annotations

import torch
from torch import nn

from fedunlearn.models.activations import SmeLU


class Good(nn.Module):
    """A small network with a constant buffer."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], 4, 3)
        self.head = nn.Linear(4, num_classes)
        self.register_buffer("centre", torch.tensor(0.5))

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x - self.centre)).mean(dim=(2, 3)))


class Vector(nn.Sequential):
    """Softmax regression on vectors."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Linear(input_shape[0], num_classes))


class BatchNormed(nn.Sequential):
    """Keeps running statistics of what it was trained on."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(4), nn.BatchNorm1d(4), nn.Linear(4, num_classes))
        self(torch.zeros((2, *input_shape)))


class Dropped(nn.Sequential):
    """Random in training mode."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 64), nn.Dropout(0.5))
        self.append(nn.Linear(64, num_classes))


class Unmapped(nn.Module):
    """Branches on a value, which cannot be mapped over models."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.layer = nn.Linear(input_shape[1] * input_shape[2], num_classes)

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return z if float(z.sum().detach()) > 0 else z * 2


class Frozen(nn.Sequential):
    """Has a parameter that does not train."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes))
        self[1].bias.requires_grad_(False)


class WrongShape(nn.Sequential):
    """Gives one logit too many."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes + 1))


class Unusual(nn.Sequential):
    """A plain chain whose layers use every option a tape knows."""

    def __init__(self, input_shape, num_classes):
        super().__init__(
            nn.Conv2d(input_shape[0], 8, (3, 2), stride=(1, 2), padding=(2, 1), bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
            nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2),
            SmeLU(0.3),
            nn.MaxPool2d((2, 1)),
            nn.Flatten(),
            nn.LazyLinear(9, bias=False),
            SmeLU(0.7),
            nn.Linear(9, num_classes),
        )
        self(torch.zeros((1, *input_shape)))


class Tied(nn.Sequential):
    """Two layers share one tensor."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, num_classes))
        self(torch.zeros((1, *input_shape)))
        self[3].weight = self[2].weight


class Twice(nn.Sequential):
    """One layer stands in the chain twice."""

    def __init__(self, input_shape, num_classes):
        middle = nn.Linear(5, 5)
        super().__init__(nn.Flatten(), nn.LazyLinear(5), middle, nn.ReLU(), middle, nn.Linear(5, num_classes))
        self(torch.zeros((1, *input_shape)))


class Hooked(nn.Sequential):
    """A hook changes what a layer gives."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))
        self(torch.zeros((1, *input_shape)))
        self[1].register_forward_hook(lambda module, inputs, output: 2 * output)


class Mirrored(nn.Sequential):
    """A convolution that pads with what is inside the image."""

    def __init__(self, input_shape, num_classes):
        super().__init__(
            nn.Conv2d(input_shape[0], 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.LazyLinear(num_classes)
        )
        self(torch.zeros((1, *input_shape)))


class Same(nn.Sequential):
    """A convolution whose padding is a word."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Conv2d(input_shape[0], 2, 3, padding="same"), nn.Flatten(), nn.LazyLinear(num_classes))
        self(torch.zeros((1, *input_shape)))


class Other(nn.Sequential):
    """A chain with an activation that a tape does not know."""

    def __init__(self, input_shape, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, num_classes))
        self(torch.zeros((1, *input_shape)))


def not_a_module(input_shape, num_classes):
    """Return something else than a module."""
    return 3
