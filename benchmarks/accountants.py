"""Accountants beside each other: speed and agreement on the same compositions.

Ours (``fedunlearn.privacy.accounting``) and those of opacus and dp-accounting, each asked for the epsilon of noisy sums
at a given delta, each with empty caches; then the accountants that have no counterpart there. An upper bound may lie
above the exact epsilon, never below it; opacus' ``gdp`` is a central limit and does. Where batches are sampled, ours
decides by dp-accounting's loss distribution with finer cells, so it is no faster; what it adds there is the second
opinions (``ours, checked``).

    python -m benchmarks.accountants [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Composition:
    """``steps`` noisy sums with noise multiplier ``noise``, each record in a batch with probability ``rate``."""

    rate: float
    noise: float
    steps: int
    delta: float = 1e-5

    def __str__(self) -> str:
        sampled = "" if self.rate == 1 else f"q = {self.rate:g}, "
        return f"{sampled}σ = {self.noise:g}, T = {self.steps}"


COMPOSITIONS = (
    Composition(1, 2.0, 1),
    Composition(1, 20.0, 100),
    Composition(1, 0.1, 1),
    Composition(0.01, 1.0, 1000),
    Composition(0.16, 1.0, 35),
    Composition(0.16, 0.5, 35),
)
"""Single and composed Gaussian releases, and training with Poisson sampling at small and large rates."""


@dataclass(frozen=True)
class Timing:
    """What one accountant said about one question, and how long it took.

    Attributes:
        question: the composition, or the theorem that was evaluated.
        accountant: who was asked.
        value: its answer; None where it failed.
        milliseconds: wall time of the one call, caches empty and libraries loaded.
        unit: what the answer is: ``epsilon``, or the name of another quantity.
        failure: why there is no answer.
    """

    question: str
    accountant: str
    value: float | None
    milliseconds: float
    unit: str = "epsilon"
    failure: str = ""


def ask(question: str, accountant: str, answer: Callable[[], float], unit: str = "epsilon") -> Timing:
    """Ask once with empty caches; what an accountant cannot do is part of the table and not an error."""
    forget()
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value, failure = float(answer()), ""
    except Exception as error:
        return Timing(question, accountant, None, _since(began), unit, f"{type(error).__name__}: {error}")
    return Timing(question, accountant, value, _since(began), unit, failure)


def _since(began: float) -> float:
    return 1e3 * (time.perf_counter() - began)


def forget() -> None:
    """Empty the caches of our accountants."""
    from fedunlearn.privacy.accounting import loss_distribution, opinions

    for module in (loss_distribution, opinions):
        for thing in vars(module).values():
            if hasattr(thing, "cache_clear"):
                thing.cache_clear()


def load() -> None:
    """Import and warm up what all accountants need, so that no question pays for it."""
    for accountant in accountants(Composition(0.5, 5.0, 2)).values():
        ask("", "", accountant)


def accountants(c: Composition) -> dict[str, Callable[[], float]]:
    """Return all accountants that can be asked about a composition, ours first."""
    from fedunlearn.privacy.accounting import epsilon_of_events, integration, renyi, sampled_gaussian

    event = sampled_gaussian(c.noise, c.rate, c.steps)
    mu = c.steps**0.5 / c.noise
    found: dict[str, Callable[[], float]] = {
        "ours": lambda: epsilon_of_events([event], c.delta, second=False).epsilon,
        "ours, checked": lambda: epsilon_of_events([event], c.delta).epsilon,
    }
    if c.rate == 1:
        found["our integration"] = lambda: integration.epsilon_of(mu, c.delta)
        found["our rdp"] = lambda: renyi.gaussian_curve(mu).epsilon(c.delta)
    else:
        found["ours, coarse"] = lambda: epsilon_of_events([event], c.delta, second=False, coarse=True).epsilon
        found["our rdp"] = lambda: renyi.sampled_curve(c.rate, c.noise).times(c.steps).epsilon(c.delta)
    found |= {f"opacus {name}": partial(_opacus, name, c) for name in ("rdp", "prv", "gdp")}
    found |= {f"dp-accounting {name}": partial(_dp_accounting, name, c) for name in ("rdp", "pld")}
    return found


def _opacus(name: str, c: Composition) -> float:
    from opacus.accountants import create_accountant

    accountant = create_accountant(name)
    accountant.history = [(c.noise, c.rate, c.steps)]
    return float(accountant.get_epsilon(c.delta))


def _dp_accounting(name: str, c: Composition) -> float:
    import dp_accounting
    from dp_accounting import pld, rdp

    gaussian = dp_accounting.GaussianDpEvent(c.noise)
    one = gaussian if c.rate == 1 else dp_accounting.PoissonSampledDpEvent(c.rate, gaussian)
    accountant = rdp.RdpAccountant() if name == "rdp" else pld.PLDAccountant()
    return float(accountant.compose(dp_accounting.SelfComposedDpEvent(one, c.steps)).get_epsilon(c.delta))


def compositions(which: Sequence[Composition] = COMPOSITIONS) -> list[Timing]:
    """Ask every accountant about every composition."""
    return [ask(str(c), name, answer) for c in which for name, answer in accountants(c).items()]


def our_own(hops: int = 600) -> list[Timing]:
    """Time the accountants that other libraries do not have, on the sizes of the experiments in simulations/."""
    from fedunlearn.privacy.accounting import epsilon_of_events, group_epsilon, sampled_gaussian, sampled_noise
    from fedunlearn.privacy.accounting.contraction import contraction_delta
    from fedunlearn.privacy.accounting.iteration import shifted_coupling, taut_string
    from fedunlearn.privacy.accounting.walks import hidden_route_delta, sigma_for_walk

    visits = list(range(20, hops + 1, 20))
    group = sampled_gaussian(2.0, 0.05, 100, group=8)
    drifts, sigmas = [0.02] * hops, [0.5 if hop in visits else 0.0 for hop in range(1, hops + 1)]
    questions: tuple[tuple[str, str, Callable[[], float], str], ...] = (
        (f"shifted iteration, {hops} steps", "iteration", lambda: shifted_coupling(2.0, drifts, sigmas).mu, "mu"),
        (f"taut string, {hops} steps", "iteration", lambda: taut_string(2.0, drifts, sigmas), "mu"),
        ("contraction, 100 steps", "contraction", lambda: contraction_delta(1.0, 8.0, 100), "delta"),
        ("group of 8 under one Gaussian", "groups", lambda: group_epsilon(0.2, 8, 1e-5), "epsilon"),
        ("group of 8, q = 0.05, T = 100", "pld", lambda: epsilon_of_events([group], 1e-5, False).epsilon, "epsilon"),
        (
            f"noise of a walk of {hops} hops",
            "walks",
            lambda: sigma_for_walk(1.0, 1e-5, visits, hops, 1.0, 0.1, 1.0),
            "noise",
        ),
        (
            f"hidden route of {hops} hops",
            "hidden_routes",
            lambda: hidden_route_delta(1.0, hops, 0.05, 1.0, 0.1, 100.0, 1.0),
            "delta",
        ),
        ("noise for ε = 1, q = 0.01, T = 1000", "calibration", lambda: sampled_noise(1.0, 1e-5, 0.01, 1000), "noise"),
    )
    return [ask(*question) for question in questions]


def main(arguments: list[str] | None = None) -> None:
    """Print both tables, or one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # dp-accounting tells of every order that it leaves out
    load()
    crossed, own = compositions(), our_own()
    if options.json:
        print(json.dumps({"compositions": [asdict(t) for t in crossed], "own": [asdict(t) for t in own]}))
        return
    from rich.console import Console

    from benchmarks.certified import machine

    for table in tables(crossed, own):
        Console(width=170).print(table)
        print()
    print(machine())


def tables(crossed: Sequence[Timing], own: Sequence[Timing]) -> list[Any]:
    """Return one table of the compositions, an accountant a row and a composition a column, and one of ours alone."""
    from benchmarks.certified import ruled

    questions = list(dict.fromkeys(t.question for t in crossed))
    names = list(dict.fromkeys(t.accountant for t in crossed))
    answers = {(t.accountant, t.question): t for t in crossed}

    def cell(timing: Timing | None) -> str:
        if timing is None:
            return ""
        said = "failed" if timing.value is None else f"{timing.value:.4f}"
        return f"{said}  {timing.milliseconds:,.1f}"

    lines = [(name, *(cell(answers.get((name, question))) for question in questions)) for name in names]
    alone = [
        (t.question, t.unit, "failed" if t.value is None else f"{t.value:.4g}", f"{t.milliseconds:,.1f}") for t in own
    ]
    return [ruled(("epsilon and ms", *questions), lines), ruled(("ours alone", "", "answer", "ms"), alone)]


if __name__ == "__main__":
    main()
