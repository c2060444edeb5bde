"""Convolutional networks for small images. Pooling comes before the activation: they commute, and it is faster."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def _two_convolutions(
    image: tuple[int, int, int],
    channels: tuple[int, int],
    kernel: int,
    hidden: int,
    num_classes: int,
    act: Callable[[], nn.Module],
) -> nn.Module:
    depth, height, width = image
    if min(height, width) < 4:
        raise ValueError(f"images must be at least 4 x 4 pixels, not {height} x {width}")
    first, second = channels
    return nn.Sequential(
        nn.Conv2d(depth, first, kernel, padding=kernel // 2),
        nn.MaxPool2d(2),
        act(),
        nn.Conv2d(first, second, kernel, padding=kernel // 2),
        nn.MaxPool2d(2),
        act(),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), hidden),
        act(),
        nn.Linear(hidden, num_classes),
    )


def small_cnn(image: tuple[int, int, int], num_classes: int, act: Callable[[], nn.Module]) -> nn.Module:
    """Return conv16-conv32 (3x3) and a hidden layer of 128 for images ``(channels, height, width)``.

    213,630 parameters on 28 x 28 grey images and 62 classes.
    """
    return _two_convolutions(image, (16, 32), 3, 128, num_classes, act)


def deep_cnn(image: tuple[int, int, int], num_classes: int, act: Callable[[], nn.Module]) -> nn.Module:
    """Return conv24-conv48-conv96 (3x3), pooled after each, and one linear layer: the usual feature extractor.

    A third pooling makes the linear layer small and the features general: more of the work is shared over positions.
    """
    depth, height, width = image
    if min(height, width) < 8:
        raise ValueError(f"images must be at least 8 x 8 pixels, not {height} x {width}")
    layers: list[nn.Module] = []
    for channels in (24, 48, 96):
        layers += [nn.Conv2d(depth, channels, 3, padding=1), nn.MaxPool2d(2), act()]
        depth = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(depth * (height // 8) * (width // 8), num_classes))


def leaf_cnn(image: tuple[int, int, int], num_classes: int, act: Callable[[], nn.Module]) -> nn.Module:
    """Return LEAF's FEMNIST network (Caldas et al. 2018): conv32-conv64 (5x5) and a hidden layer of 2048.

    6,603,710 parameters on 28 x 28 grey images and 62 classes.
    """
    return _two_convolutions(image, (32, 64), 5, 2048, num_classes, act)
