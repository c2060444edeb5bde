"""What a certificate claims besides its one pair: delta at every epsilon, and the noise other claims would take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedunlearn.plots.style import FAINT, INK, MUTED, PAPER, SERIES, headline, look, new_figure
from fedunlearn.privacy import delta_of, mu_of
from fedunlearn.results.words import number

SMALLEST_DELTA = 1e-12
"""Lower end of the delta axis."""


def certificate_curves(certificates: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> Figure:
    """Return the figure of certificates: delta against epsilon, and sigma against epsilon at the claimed delta.

    Certificates that are not valid are dashed, with an open mark at the claimed point. Curves that coincide are drawn
    once, under all their names. A claim about one pair (epsilon, delta), with mu = null, is a mark without a curve.

    Args:
        certificates: entries of ``certificate.json`` that are :func:`drawable`: kind, epsilon, delta, mu, sigma,
            sensitivity, valid are read.
        names: one a certificate; by default "release 1", "release 2", …, and "message 2" for what goes with the second
            release but is about another kind of observer.
    """
    groups = _together(certificates, names or default_names([str(c["kind"]) for c in certificates]))
    with look():
        figure = new_figure(8.6, 4.0)
        title = "What the certificate says" if len(certificates) == 1 else "What the certificates say"
        headline(figure, title, _verdict([bool(certificate["valid"]) for certificate in certificates]))
        left = figure.add_axes((0.075, 0.13, 0.395, 0.63))
        right = figure.add_axes((0.575, 0.13, 0.395, 0.63))
        for place, (certificate, _) in enumerate(groups):
            _profile(left, certificate, SERIES[place % len(SERIES)])
            _noise(right, certificate, SERIES[place % len(SERIES)])
        if len(certificates) == 1:
            _label_points(left, right, certificates[0])
        else:
            _list_in_corner(left, right, groups)
        _finish_axes(left, right, certificates)
    return figure


def drawable(certificate: Mapping[str, Any]) -> bool:
    """Return whether a claim has a place in the picture: with equal worlds, as for exact methods, there is no curve.

    An exact answer that is noised as others are (mu = 0) has delta = 0 at every epsilon, and needs no noise.
    """
    if certificate["mu"] is not None and not 0 < float(certificate["mu"]) < math.inf:
        return False
    return all(0 < float(certificate[key]) < math.inf for key in ("epsilon", "delta", "sigma"))


def default_names(kinds: Sequence[str]) -> list[str]:
    """Return a name for every certificate of a run from their kinds, in the order in which they were issued.

    >>> default_names(["retrain-equivalence", "message", "retrain-equivalence"])
    ['release 1', 'message 1', 'release 2']
    """
    names, count = [], 0
    for kind in kinds:
        further = kind == "message" and count > 0
        count += not further
        names.append(f"{'message' if further else 'release'} {count}")
    return names


def _profile(axes: Axes, certificate: Mapping[str, Any], colour: str) -> None:
    mu, claimed = certificate["mu"], float(certificate["epsilon"])
    if mu is not None:
        epsilons = np.linspace(0, _widest(mu, claimed), 300)
        deltas = np.array([delta_of(mu, float(e)) for e in epsilons])
        keep = deltas > SMALLEST_DELTA / 100
        axes.plot(epsilons[keep], deltas[keep], color=colour, linewidth=2, linestyle=_dashes(certificate))
    _mark(axes, claimed, float(certificate["delta"]), certificate, colour)


def _noise(axes: Axes, certificate: Mapping[str, Any], colour: str) -> None:
    claimed, delta, sigma = (float(certificate[key]) for key in ("epsilon", "delta", "sigma"))
    # sigma scales as 1/mu, whatever the sensitivity and however many releases the certificate composes
    if certificate["mu"] is not None:
        scale = sigma * float(certificate["mu"])
        epsilons = np.geomspace(claimed / 10, claimed * 10, 160)
        sigmas = [scale / mu_of(float(e), delta) for e in epsilons]
        axes.plot(epsilons, sigmas, color=colour, linewidth=2, linestyle=_dashes(certificate))
    else:  # a mark alone needs room around it
        axes.update_datalim([(claimed / 10, sigma / 10), (claimed * 10, sigma * 10)])
    _mark(axes, claimed, sigma, certificate, colour)


def _label_points(left: Axes, right: Axes, certificate: Mapping[str, Any]) -> None:
    """Write the numbers of a single certificate beside its two marks."""
    texts = (
        (left, "delta", f"ε = {number(certificate['epsilon'])}, δ = {number(certificate['delta'])}", ""),
        (right, "sigma", f"σ = {number(certificate['sigma'])}", f"sensitivity {number(certificate['sensitivity'])}"),
    )
    for axes, key, text, below in texts:
        at = (float(certificate["epsilon"]), float(certificate[key]))
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "left", "color": SERIES[0]}
        axes.annotate(text, at, xytext=(10, 18 if below else 5), va="bottom", fontweight="bold", **place)
        axes.annotate(below, at, xytext=(10, 4), va="bottom", fontsize=9, **place)


def _list_in_corner(left: Axes, right: Axes, groups: Sequence[tuple[Mapping[str, Any], str]]) -> None:
    """Name several certificates in the upper right corners, which all curves leave free."""
    for place, (certificate, name) in enumerate(groups):
        texts = (
            (left, f"{name}: ε = {number(certificate['epsilon'])}, δ = {number(certificate['delta'])}"),
            (right, f"σ = {number(certificate['sigma'])}, sensitivity {number(certificate['sensitivity'])}"),
        )
        for axes, text in texts:
            axes.annotate(
                text, (1, 1), xycoords="axes fraction", xytext=(-4, -5 - 14 * place), textcoords="offset points",
                ha="right", va="top", fontsize=9, fontweight="bold", color=SERIES[place % len(SERIES)],
                bbox={"boxstyle": "round,pad=0.1", "fc": PAPER, "ec": "none", "alpha": 0.85}, zorder=6,
            )  # fmt: skip


def _mark(axes: Axes, x: float, y: float, certificate: Mapping[str, Any], colour: str) -> None:
    valid = bool(certificate["valid"])
    axes.plot(
        [x], [y], "o", markersize=9, markerfacecolor=colour if valid else PAPER,
        markeredgecolor=PAPER if valid else colour, markeredgewidth=1.4 if valid else 2, zorder=5,
    )  # fmt: skip


def _finish_axes(left: Axes, right: Axes, certificates: Sequence[Mapping[str, Any]]) -> None:
    for axes in (left, right):
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0)
        axes.set_xlabel("ε")
    left.set_yscale("log")
    left.set_ylim(SMALLEST_DELTA, 1)
    left.set_yticks([10.0**k for k in range(-12, 1, 3)])
    widest = max((_widest(c["mu"], float(c["epsilon"])) for c in certificates), default=1)
    left.set_xlim(0, widest * (1 if len(certificates) == 1 else 1.25))
    pairs_alone = all(c["mu"] is None for c in certificates)
    said = "the claim: one pair, no curve" if pairs_alone else "δ that holds at every ε"
    left.set_title(said, fontsize=10, color=INK, loc="left", pad=8)
    deltas = {number(c["delta"]) for c in certificates}
    at = f"δ = {deltas.pop()}" if len(deltas) == 1 else "the claimed δ"
    said = f"its noise σ, at {at}" if pairs_alone else f"noise σ that another ε would take, at {at}"
    right.set_title(said, fontsize=10, color=INK, loc="left", pad=8)
    right.set_xscale("log")
    right.set_yscale("log")
    if len(certificates) > 1:
        right.set_xlim(right=right.get_xlim()[1] * 4)
    _plain_logs(right)


def _plain_logs(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers at 1, 2 and 5, thinned out where they would crowd."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if math.log10(high / low) <= 2.5 else (1,)
        ticks = [s * 10.0**k for k in decades for s in steps if low <= s * 10.0**k <= high]
        axis.set_ticks(ticks, labels=[number(tick) for tick in ticks], color=MUTED)
        axis.set_ticks([], minor=True)


def _widest(mu: float | None, claimed: float) -> float:
    """Return an epsilon at which the profile has left the picture, but at most some times the claimed one."""
    wide = claimed * 2.5
    return wide if mu is None or delta_of(mu, wide) > SMALLEST_DELTA else min(wide, mu * mu / 2 + 7.5 * mu)


def _verdict(valid: Sequence[bool]) -> str:
    if all(valid):
        return "valid: every premise was enforced"
    if not any(valid):
        return "NOT valid: some premise was not enforced"
    return "filled: valid; open and dashed: NOT valid, some premise was not enforced"


def _dashes(certificate: Mapping[str, Any]) -> Any:
    return "solid" if certificate["valid"] else (0, (4, 2))


def _together(certificates: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[tuple[Mapping[str, Any], str]]:
    """Return one certificate for each set of equal claims, with the names of all of them."""
    groups: dict[tuple[Any, ...], tuple[Mapping[str, Any], list[str]]] = {}
    for certificate, name in zip(certificates, names):
        key = tuple(
            str(certificate[k]) if certificate[k] is None else f"{certificate[k]:.9g}"
            for k in ("epsilon", "delta", "mu", "sigma")
        )
        groups.setdefault((*key, certificate["valid"]), (certificate, []))[1].append(name)
    return [(c, ", ".join(n) if len(n) < 3 else f"{n[0]} to {n[-1]}") for c, n in groups.values()]
