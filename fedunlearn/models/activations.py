"""Activations by name. All of them are non-decreasing, so max-pooling commutes with them."""

from __future__ import annotations

from torch import Tensor, nn


class SmeLU(nn.Module):
    """ReLU with a quadratic middle: 0 below ``-width``, ``(x + width)^2 / (4 width)`` up to ``width``, ``x`` above.

    Source: Shamir, Lin, Coviello, "Smooth activations and reproducibility in deep networks" (2020), section 4. The
    derivative is continuous and has Lipschitz constant ``1 / (2 width)``.
    """

    def __init__(self, width: float = 0.5) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width must be positive, not {width}")
        self.width = float(width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation element by element."""
        # No branches; at the upper joint relu has slope 0, as it must, where a clamp would have slope 1.
        middle = (x + self.width).clamp(0.0, 2.0 * self.width)
        return middle.square() / (4.0 * self.width) + (x - self.width).relu()

    def extra_repr(self) -> str:
        """Show the width when the module is printed."""
        return f"width={self.width}"


def activation(name: str, smelu_width: float = 0.5) -> nn.Module:
    """Return the activation called ``name`` (``relu`` or ``smelu``); ValueError for any other name."""
    if name == "relu":
        return nn.ReLU()
    if name == "smelu":
        return SmeLU(smelu_width)
    raise ValueError(f"activation {name!r} is not one of relu, smelu")
