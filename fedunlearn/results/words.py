"""How numbers, models and requests are called in tables and figures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

ORDER = ("original", "retrained", "unlearned")
"""The models of a run that come first wherever models are listed; controls follow in the order of the summary."""

JUNK_START = "junk_start"
"""The control that starts from a public model which no training touched."""


def model_title(name: str) -> str:
    """Return the name of a model as people read it: ``public_head`` is "public head"."""
    return name.replace("_", " ")


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of models in the order in which they are shown."""
    given = list(names)
    return [name for name in ORDER if name in given] + [name for name in given if name not in ORDER]


def is_control(name: str) -> bool:
    """Return whether a model is none of original, retrained and unlearned."""
    return name not in ORDER


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, thousands separated; "–" for None.

    >>> number(18432.0), number(0.013417), number(1e-05), number(1.0)
    ('18,432', '0.0134', '1e-5', '1')
    """
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 1000 and math.isfinite(value):
        return f"{value:,.0f}"
    return re.sub(r"e([+-])0*(?=\d)", r"e\1", f"{value:.{digits}g}").replace("e+", "e")


def share(value: float | None) -> str:
    """Return a share in [0, 1] with three decimals, as figures have it; "–" for None."""
    return "–" if value is None else f"{value:.3f}"


def points(value: float) -> str:
    """Return a difference of two shares in percentage points.

    >>> points(0.1066), points(-0.00314), points(1.0)
    ('10.7 points', '-0.3 points', '100.0 points')
    """
    return f"{100 * value:.1f} points"


def seconds(value: float | None) -> str:
    """Return a duration in the unit people would use.

    >>> seconds(0.0042), seconds(8.13), seconds(312.0), seconds(7300.0)
    ('4.2 ms', '8.1 s', '5 min 12 s', '2 h 1 min')
    """
    if value is None:
        return "–"
    if value < 0.995:
        return f"{1000 * value:.2g} ms" if value < 0.0995 else f"{value:.2f} s"
    if value < 99.5:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def times(cost: float | None, instead_of: float | None) -> str:
    """Return how many times a cost the one that it replaces is; "–" where that has no answer.

    >>> times(2, 10), times(10, 2), times(3, 3), times(0, 3), times(0, 0)
    ('5×', '0.2×', '1×', '∞', '–')
    """
    if cost is None or instead_of is None or cost == instead_of == 0:
        return "–"
    return f"{_ratio(instead_of / cost)}×" if cost else "∞"


def describe_request(request: Mapping[str, Any]) -> str:
    """Return a resolved request in a few words, from its entry in the summary."""
    if request.get("text"):
        return str(request["text"])
    level, count = request.get("level"), request.get("samples")
    how_many = "" if not isinstance(count, int) else f"{count:,} samples"
    if level == "client":
        return f"client {request.get('client')} leaves" + (f" with {how_many}" if how_many else "")
    if level == "class":
        return f"class {request.get('label')} goes everywhere" + (f": {how_many}" if how_many else "")
    if level == "sample":
        return f"client {request.get('client')} deletes {how_many or 'samples'}"
    return "a deletion request"


def _ratio(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
