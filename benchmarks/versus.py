"""The product, the bare training step and plain Flower on Ray in turn, and how they compare.

Each is a process of its own, one after the other, several times round; every ratio is taken within one turn, and the
median over the turns is printed, because a machine drifts more from hour to hour than within minutes.

    python -m benchmarks.versus                                # all three models, three turns: about ten minutes
    python -m benchmarks.versus --model mlp --repeats 1
    python -m benchmarks.versus --without-peer                 # where Ray is not installed
"""

from __future__ import annotations

import argparse
import json
import operator
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import workload

ROOT = Path(__file__).resolve().parent.parent

Figures = Mapping[str, Any]
"""What one script printed as its JSON line."""


@dataclass(frozen=True)
class Turn:
    """One turn: the figures of the product, of the bare step, and of Flower on Ray (None if it was left out)."""

    product: Figures
    bare: Figures
    peer: Figures | None


@dataclass(frozen=True)
class Comparison:
    """Medians over the turns for one model; ``times_peer`` is None where the peer was left out.

    Attributes:
        updates_per_s, bare_updates_per_s, peer_updates_per_s: client updates a second.
        times_peer: the product's updates a second over those of Flower on Ray.
        overhead_percent: what a product round takes on top of a bare one.
        mixing_and_checks_percent: what it takes on top of its own local steps.
        ceiling_percent: share of the updates a second that matrix products at full speed would allow.
        start_up_s: seconds until the product's network is ready for its first round.
        first_done_s, peer_first_done_s: seconds until the first round is done; the peer starts Ray's workers in it.
        peak_memory_mb, peer_memory_mb: of the process tree.
    """

    model: str
    turns: int
    updates_per_s: float
    bare_updates_per_s: float
    peer_updates_per_s: float | None
    times_peer: float | None
    overhead_percent: float
    mixing_and_checks_percent: float
    ceiling_percent: float
    start_up_s: float
    peak_memory_mb: float
    first_done_s: float
    peer_first_done_s: float | None
    peer_memory_mb: float | None


@dataclass(frozen=True)
class Verdict:
    """One thing the product must show for a model, what was measured, and whether it does; None: not measured."""

    model: str
    what: str
    measured: float | None
    bound: float
    met: bool | None


AT_LEAST, AT_MOST = operator.ge, operator.le
_PROMISES: tuple[tuple[str, str, str, Callable[[float, float], bool], float], ...] = (
    ("small-cnn", "client updates a second, at least", "updates_per_s", AT_LEAST, 80.0),
    ("small-cnn", "times Flower on Ray, at least", "times_peer", AT_LEAST, 7.0),
    ("mlp", "times Flower on Ray, at least", "times_peer", AT_LEAST, 25.0),
    ("softmax", "times Flower on Ray, at least", "times_peer", AT_LEAST, 50.0),
    ("small-cnn", "per cent over the bare step, at most", "overhead_percent", AT_MOST, 5.0),
    ("small-cnn", "seconds of start-up, at most", "start_up_s", AT_MOST, 3.0),
    ("small-cnn", "MB of memory at peak, at most", "peak_memory_mb", AT_MOST, 800.0),
)


def compare(model: str, turns: Sequence[Turn]) -> Comparison:
    """Return the medians over the turns; ratios are taken within each turn first."""

    def middle(values: Sequence[float]) -> float:
        return float(statistics.median(values))

    peers = [t.peer for t in turns if t.peer is not None]
    ratios = [t.product["client_updates_per_s"] / t.peer["client_updates_per_s"] for t in turns if t.peer is not None]
    shares = [100.0 * t.product["client_updates_per_s"] / t.bare["ceiling_updates_per_s"] for t in turns]
    return Comparison(
        model=model,
        turns=len(turns),
        updates_per_s=middle([t.product["client_updates_per_s"] for t in turns]),
        bare_updates_per_s=middle([t.bare["client_updates_per_s"] for t in turns]),
        peer_updates_per_s=middle([p["client_updates_per_s"] for p in peers]) if peers else None,
        times_peer=middle(ratios) if ratios else None,
        overhead_percent=middle([t.bare["overhead_percent"] for t in turns]),
        mixing_and_checks_percent=middle([t.bare["mixing_and_checks_percent"] for t in turns]),
        ceiling_percent=middle(shares),
        start_up_s=middle([t.product["start_up_s"] for t in turns]),
        peak_memory_mb=middle([t.product["peak_memory_mb"] for t in turns]),
        first_done_s=middle([_first_done(t.product) for t in turns]),
        peer_first_done_s=middle([_first_done(p) for p in peers]) if peers else None,
        peer_memory_mb=middle([p["peak_memory_mb"] for p in peers]) if peers else None,
    )


def _first_done(figures: Figures) -> float:
    return float(figures["start_up_s"] + figures["first_round_s"])


def verdicts(found: Sequence[Comparison]) -> list[Verdict]:
    """Return what the product must show for the models that were measured, and whether it does."""
    by_model = {c.model: c for c in found}
    out = []
    for model, what, name, holds, bound in _PROMISES:
        if model in by_model:
            measured = getattr(by_model[model], name)
            out.append(Verdict(model, what, measured, bound, None if measured is None else holds(measured, bound)))
    return out


def figures_of(module: str, *options: str) -> Figures:
    """Run a script of this package in a process of its own and return its JSON line; RuntimeError when it fails."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        reason = " ".join(done.stderr.strip().splitlines()[-1:])
        raise RuntimeError(f"benchmarks.{module} ended with exit code {done.returncode}: {reason}")
    figures: Figures = json.loads(lines[-1])
    return figures


def take_turn(model: str, rounds: int, with_peer: bool, remake_data: bool = False) -> Turn:
    """Run product, bare step and peer, one after the other."""
    common = ("--model", model, "--rounds", str(rounds))
    # The peer's rounds are long: six of them, its own default, are as good as many short ones.
    peer = ("--model", model, *(["--remake-data"] if remake_data else []))
    return Turn(
        product=figures_of("yardstick", *common),
        bare=figures_of("reference", *common),
        peer=figures_of("peer_flower_ray", *peer) if with_peer else None,
    )


def tables(found: Sequence[Comparison]) -> list[Any]:
    """Return the comparison and the verdicts as tables for the terminal."""
    from benchmarks.certified import ruled

    def number(value: float | None, digits: int = 1) -> str:
        return "–" if value is None else f"{value:,.{digits}f}"

    heads = ("", *(c.model for c in found))
    lines = [
        ("client updates/s", *(number(c.updates_per_s) for c in found)),
        ("bare step, updates/s", *(number(c.bare_updates_per_s) for c in found)),
        ("Flower on Ray, updates/s", *(number(c.peer_updates_per_s) for c in found)),
        ("times Flower on Ray", *(number(c.times_peer) for c in found)),
        ("over the bare step, %", *(number(c.overhead_percent) for c in found)),
        ("over its own local steps, %", *(number(c.mixing_and_checks_percent) for c in found)),
        ("of the matrix-product ceiling, %", *(number(c.ceiling_percent) for c in found)),
        ("start-up, s", *(number(c.start_up_s) for c in found)),
        ("until the first round is done, s", *(number(c.first_done_s) for c in found)),
        ("… Flower on Ray", *(number(c.peer_first_done_s) for c in found)),
        ("memory at peak, MB", *(number(c.peak_memory_mb, 0) for c in found)),
        ("… Flower on Ray", *(number(c.peer_memory_mb, 0) for c in found)),
    ]
    words = {True: "met", False: "NOT MET", None: "not measured"}
    judged = [(f"{v.model}: {v.what}", number(v.bound, 0), number(v.measured), words[v.met]) for v in verdicts(found)]
    return [ruled(heads, lines), ruled(("must show", "bound", "measured", ""), judged)]


def main(arguments: list[str] | None = None) -> int:
    """Run the turns and print the comparison; exit code 1 with one sentence where a script failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--model", choices=workload.MODELS, default=None, help="one model only")
    parser.add_argument("--repeats", type=int, default=3, help="turns for each model")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of the product and of the bare step in a turn")
    parser.add_argument("--without-peer", action="store_true", help="leave Flower on Ray out")
    parser.add_argument("--remake-data", action="store_true", help="the peer makes its data anew at every message")
    options = parser.parse_args(arguments)
    models = workload.MODELS if options.model is None else (options.model,)
    turns: dict[str, list[Turn]] = {model: [] for model in models}
    try:
        for repeat in range(options.repeats):
            for model in models:
                print(f"turn {repeat + 1} of {options.repeats}: {model}", file=sys.stderr, flush=True)
                turns[model].append(take_turn(model, options.rounds, not options.without_peer, options.remake_data))
    except RuntimeError as error:
        print(f"versus: {error}", file=sys.stderr)
        return 1
    found = [compare(model, turns[model]) for model in models]
    if options.json:
        record = {
            "comparisons": [asdict(c) for c in found],
            "verdicts": [asdict(v) for v in verdicts(found)],
            "turns": {model: [asdict(t) for t in taken] for model, taken in turns.items()},
        }
        print(json.dumps(record))
        return 0
    from rich.console import Console

    from benchmarks.certified import machine

    for table in tables(found):
        Console(width=120).print(table)
    print(f"\n{machine()}; medians of {options.repeats} turns")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
