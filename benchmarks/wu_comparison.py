"""Newton corrections after Wu et al. (arXiv 2601.06436), measured against retraining on MNIST and FEMNIST.

Runs simulations/reproductions/wu_{mnist,femnist}.toml on a ring and on an Erdős–Rényi graph, deleting samples, a class
and a client, without the training cache; then one noise-free correction of a small CNN, which no certificate covers;
then the control that says how much of the speed-up is the method's: the same tolerance, reached without training.

    python -m benchmarks.wu_comparison --seeds 3
    python -m benchmarks.wu_comparison --data mnist --parts certified --lines runs.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.certified_rows import markdown

FOLDER = Path(__file__).resolve().parent.parent / "simulations" / "reproductions"
DATA = ("mnist", "femnist")
GRAPHS = ("ring", "erdos-renyi")
LEVELS = {
    "sample": '{level="sample", client=3, count=5}',
    "class": '{level="class", label=3}',
    "client": '{level="client", client=3}',
}
PARTS = ("certified", "recovery", "cnn", "control")
_CNN = (
    "model.name=small-cnn", "model.features=raw", "training.rounds=15", "training.batch=32", "training.lr=0.1",
    "training.momentum=0.9", "unlearning={method='newton', mode='one-step', damping=0.1}", "evaluation.every=15",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run: ``overrides`` on the file of ``data``; ``variant`` says what is measured."""

    data: str
    graph: str
    level: str
    seed: int
    variant: str = "paper"
    overrides: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The settings file that is run."""
        return FOLDER / f"wu_{self.data}.toml"

    @property
    def changes(self) -> list[str]:
        """What differs from the file."""
        place = [f"seed={self.seed}", f"topology.generator={self.graph}", f"requests=[{LEVELS[self.level]}]"]
        return [*place, "runtime.cache=false", "runtime.workers=0", *self.overrides]


@dataclass(frozen=True)
class Row:
    """What a run gave; accuracies and AUCs in [0, 1], seconds of this machine, messages between vertices.

    Attributes:
        data, graph, level, seed, variant: the run.
        unlearned, retrained: test accuracy; only the unlearned model carries noise.
        auc, auc_retrained: how well a loss threshold tells deleted from test samples; 0.5 is a coin.
        seconds, retrain_seconds, messages, retrain_messages: of the answer and of retraining.
        kind, valid, sigma: of the certificate; ``none`` without one.
        corrections: how many were tried; None where the mode does not count them.
        fell_back: none was accepted, and the network retrained.
        distance, distance_before: to the retrained network, with and without the answer, before noise.
        controls: messages of reaching the same tolerance without training, by start.
    """

    data: str
    graph: str
    level: str
    seed: int
    variant: str
    unlearned: float
    retrained: float
    auc: float | None
    auc_retrained: float | None
    seconds: float
    retrain_seconds: float
    messages: float
    retrain_messages: float
    kind: str
    valid: bool | None
    sigma: float | None
    corrections: int | None
    fell_back: bool
    distance: float | None
    distance_before: float | None
    controls: Mapping[str, float]

    @property
    def gap(self) -> float:
        """Accuracy of unlearned minus retrained, in percentage points."""
        return 100 * (self.unlearned - self.retrained)

    @property
    def auc_gap(self) -> float | None:
        """Membership AUC of unlearned minus retrained."""
        return None if self.auc is None or self.auc_retrained is None else self.auc - self.auc_retrained

    @property
    def time_saved(self) -> float:
        """Share of retraining's seconds that the answer did without; negative where it took longer."""
        return saved(self.seconds, self.retrain_seconds)

    @property
    def messages_saved(self) -> float:
        """Share of retraining's messages that the answer did without."""
        return saved(self.messages, self.retrain_messages)


def saved(spent: float, reference: float) -> float:
    """Return ``1 - spent/reference``; NaN where the reference is nothing.

    >>> saved(3.0, 100.0)
    0.97
    """
    return 1 - spent / reference if reference else float("nan")


def row_of(case: Case, summary: Mapping[str, Any]) -> Row:
    """Return the line of a run from its ``summary.json``."""
    request, models = summary["requests"][-1], summary["models"]
    certificate, cost, retrain = request["certificate"], request["cost"], request["retrain_cost"]
    gradients = request["details"].get("gradients") if case.variant.startswith("paper") else None
    measured = request.get("fell_back_to_retraining", False) is False and gradients is not None
    return Row(
        case.data, case.graph, case.level, case.seed, case.variant,
        unlearned=models["unlearned"]["test_accuracy"], retrained=models["retrained"]["test_accuracy"],
        auc=models["unlearned"].get("membership_auc_forget_vs_test"),
        auc_retrained=models["retrained"].get("membership_auc_forget_vs_test"),
        seconds=cost["seconds"], retrain_seconds=retrain["seconds"],
        messages=cost["messages"], retrain_messages=retrain["messages"],
        kind="none" if certificate is None else certificate["kind"],
        valid=None if certificate is None else certificate["valid"],
        sigma=None if certificate is None else certificate["sigma"],
        corrections=int(gradients) - 1 if measured and gradients is not None else None,
        fell_back=bool(request.get("fell_back_to_retraining")),
        distance=request.get("distance_to_retrained"), distance_before=request.get("distance_before"),
        controls={name: entry["messages"] for name, entry in request.get("controls", {}).items()},
    )  # fmt: skip


def cases(data: Sequence[str], parts: Sequence[str], seeds: int) -> Iterator[Case]:
    """Yield every run: the first seed and the single runs before further seeds, so that an interrupted comparison is
    still a comparison.
    """

    def certified(seed: int) -> Iterator[Case]:
        for graph in GRAPHS:
            for level in LEVELS:
                for name in data:
                    yield Case(name, graph, level, seed)

    certify = range(seeds) if "certified" in parts else range(0)
    for seed in certify[:1]:
        yield from certified(seed)
    for name in data:
        if "control" in parts:
            provable = "unlearning={method='newton', mode='provable'}"
            yield Case(name, "ring", "client", 0, "provable", (provable, "evaluation.controls=true"))
        if "recovery" in parts:
            yield Case(name, "ring", "client", 0, "paper + round", ("unlearning.recovery=round",))
        if "cnn" in parts:
            yield Case(name, "ring", "client", 0, "CNN, exact Hessian", _CNN)
            fisher = "unlearning={method='newton', mode='one-step', damping=0.1, curvature='fisher-diagonal'}"
            yield Case(name, "ring", "client", 0, "CNN, Fisher diagonal", (*_CNN, fisher))
    for seed in certify[1:]:
        yield from certified(seed)


def measure(case: Case) -> Row:
    """Run a case through :func:`fedunlearn.run`, in this process."""
    import fedunlearn

    return row_of(case, fedunlearn.run(case.file, case.changes).summary)


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of the same data, graph, level and variant together, in order of appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.data, row.graph, row.level, row.variant), []).append(row)
    return list(groups.values())


def spread(values: Sequence[float | None], form: str = ".3f") -> str:
    """Return mean ± half the range of what is known; a dash where nothing is.

    >>> spread([1.0, 3.0], ".1f")
    '2.0 ± 1.0'
    """
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    mean = format(statistics.fmean(known), form)
    return mean if len(known) == 1 else f"{mean} ± {format((max(known) - min(known)) / 2, form)}"


HEADS = (
    "data", "graph", "level", "what", "runs", "acc", "retrained", "gap (points)", "AUC", "AUC retrained", "AUC gap",
    "s", "retrain s", "time saved", "messages", "retrain", "saved", "certificate", "σ", "corrections", "fell back",
    "distance / before",
)  # fmt: skip
COSTS = (*HEADS[:5], *HEADS[11:17])
EFFECTS = tuple(head for head in HEADS if head not in COSTS[5:])


def cells(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return one line under :data:`HEADS`: means over the runs of one group, ± half the range."""

    def of(get: Callable[[Row], float | None], form: str = ".3f") -> str:
        return spread([get(r) for r in rows], form)

    first = rows[0]
    kinds = {f"{r.kind}{'' if r.valid is None else ', valid' if r.valid else ', NOT valid'}" for r in rows}
    tried = sorted({r.corrections for r in rows if r.corrections is not None})
    return (
        first.data, first.graph, first.level, first.variant, str(len(rows)),
        of(lambda r: r.unlearned), of(lambda r: r.retrained), of(lambda r: r.gap, "+.1f").replace("± +", "± "),
        of(lambda r: r.auc, ".2f"), of(lambda r: r.auc_retrained, ".2f"),
        of(lambda r: r.auc_gap, "+.2f").replace("± +", "± "),
        of(lambda r: r.seconds, ".1f"), of(lambda r: r.retrain_seconds, ".1f"), of(lambda r: r.time_saved, ".0%"),
        of(lambda r: r.messages, ".0f"), of(lambda r: r.retrain_messages, ".0f"), of(lambda r: r.messages_saved, ".0%"),
        " / ".join(sorted(kinds)), of(lambda r: r.sigma), "–".join(map(str, tried)) or "–",
        f"{sum(r.fell_back for r in rows)} of {len(rows)}",
        f"{of(lambda r: r.distance, '.2g')} / {of(lambda r: r.distance_before, '.2g')}",
    )  # fmt: skip


def controls(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for every run that reached its tolerance from other starts as well."""
    for row in rows:
        for name, messages in row.controls.items():
            true, published = messages / row.messages, row.retrain_messages / row.messages
            yield (
                f"{row.data}, {row.graph}, {row.level}: {name.replace('_', ' ')} takes {messages:.0f} messages, "
                f"unlearning {row.messages:.0f}, retraining {row.retrain_messages:.0f}: unlearning is {true:.2f} times "
                f"as cheap as this control, {published:.1f} times as cheap as retraining"
            )


def read_lines(path: Path) -> list[Row]:
    """Return the rows that ``--lines`` wrote, one JSON object a line."""
    names = {f.name for f in fields(Row)}
    found = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [Row(**{key: value for key, value in entry.items() if key in names}) for entry in found]


def machine() -> str:
    """Return the day and the machine in one line."""
    return (
        f"{date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of the certified runs (default: 3)")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--lines", type=Path, metavar="FILE", help="also append every run to FILE, one JSON line each")
    parser.add_argument("--from", nargs="+", type=Path, metavar="FILE", dest="given", help="print these; run nothing")
    options = parser.parse_args(arguments)
    rows: list[Row] = [row for path in options.given or () for row in read_lines(path)]
    for case in () if options.given else cases(options.data, options.parts, options.seeds):
        began = time.perf_counter()
        rows.append(measure(case))
        if options.lines:
            with options.lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
        took = time.perf_counter() - began
        print(
            f"{case.data} {case.graph} {case.level} {case.variant} {case.seed}: {took:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    if options.json:
        print(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}))
        return 0
    lines = [cells(group) for group in grouped(rows)]
    for heads in (EFFECTS, COSTS):
        places = [HEADS.index(head) for head in heads]
        print(markdown(heads, [[line[i] for i in places] for line in lines]) + "\n")
    print(machine())
    for line in controls(rows):
        print(f"- {line}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
