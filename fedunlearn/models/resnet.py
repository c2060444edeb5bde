"""ResNet-18 with group normalisation, for images of any size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

GROUPS = 32
"""Groups of a normalisation layer, the default of Wu and He, "Group normalization" (2018)."""


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), normalised within each sample."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(GROUPS, outputs)
        self.act = act()
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(GROUPS, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.GroupNorm(GROUPS, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.first_norm(self.first(x)))
        return self.act(self.second_norm(self.second(y)) + self.shortcut(x))


class ResNet18GN(nn.Module):
    """ResNet-18 with GroupNorm and a 3x3 stem without pooling, as is usual for images below 64 x 64.

    BatchNorm would make a sample's loss depend on the rest of its batch, and keep statistics of deleted samples.
    11,173,962 parameters on 3-channel images and 10 classes.
    """

    def __init__(self, image: tuple[int, int, int], num_classes: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(image[0], 64, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, 64), act())
        blocks: list[nn.Module] = []
        width = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [_Residual(width, outputs, stride, act), _Residual(outputs, outputs, 1, act)]
            width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))
