"""The experiments of simulations/hosts on every runtime and number of hosts: are all models the same bits?

Local, `flwr run` on Ray, and a real deployment with TLS on loopback, each compared with one local host: model files
byte by byte, and metrics, certificates and ledgers without the hashes of settings, which name the number of hosts.

    python -m benchmarks.runtimes                                      # everything: about forty minutes on two cores
    python -m benchmarks.runtimes --runtime local --hosts 1 2 4 8 --experiment train
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.superlink import ROOT, flwr_run, superlink
from fedunlearn.config import load_experiment
from fedunlearn.errors import UserError
from fedunlearn.flower import run_local
from fedunlearn.flower.deployment import Deployment

EXPERIMENTS = ("train", "newton", "walk", "rewind", "churn")
RUNTIMES = ("local", "ray", "deployment")
CHANGES = ("runtime.cache=false",)
_MEASURED = frozenset(("hashes", "sha256", "hosts"))

Start = Callable[[Path, int, Path], None]


def without_hashes(value: Any) -> Any:
    """Return tables without hashes of settings, and without seconds."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _MEASURED and not k.endswith("seconds")}
        return {k: without_hashes(v) for k, v in kept.items()}
    return [without_hashes(v) for v in value] if isinstance(value, list) else value


def numbers_of(folder: Path) -> dict[str, Any]:
    """Return what a run came to: the bytes of its models and metrics, its certificates and its ledger."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in sorted((folder / "models").iterdir())}
    found["metrics.csv"] = (folder / "metrics.csv").read_bytes()
    for name in ("certificate.json", "ledger.json"):
        found[name] = without_hashes(json.loads((folder / name).read_text()))
    return found


def local(simulation: Path, hosts: int, out: Path) -> None:
    """Run on hosts of this process."""
    run_local(load_experiment(simulation, [*CHANGES, f"runtime.hosts={hosts}"]), out)


def ray(simulation: Path, hosts: int, out: Path) -> None:
    """Run by ``flwr run`` on as many SuperNodes."""
    with tempfile.TemporaryDirectory() as name, superlink(Path(name)) as environment:
        overrides = [*CHANGES, f"runtime.hosts={hosts}"]
        flwr_run(environment, str(simulation.relative_to(ROOT)), overrides, out, hosts)


def deployment(simulation: Path, hosts: int, out: Path) -> None:
    """Run on a SuperLink and SuperNodes of this machine."""
    with Deployment(hosts) as deployed:
        deployed.run(simulation, list(CHANGES), out, lambda line: None)


STARTS: dict[str, Start] = {"local": local, "ray": ray, "deployment": deployment}


def main(arguments: list[str] | None = None) -> int:
    """Run and compare; exit code 1 where something differs or fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--experiment", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--hosts", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        for experiment in options.experiment:
            simulation = ROOT / "simulations" / "hosts" / f"{experiment}.toml"
            reference = Path(name) / f"{experiment}-reference"
            local(simulation, 1, reference)
            wanted = numbers_of(reference)
            for runtime in options.runtime:
                for hosts in options.hosts:
                    out, began = Path(name) / f"{experiment}-{runtime}-{hosts}", time.perf_counter()
                    try:
                        STARTS[runtime](simulation, hosts, out)
                        found = numbers_of(out)
                        differ = [key for key in {*wanted, *found} if wanted.get(key) != found.get(key)]
                        told = json.loads((out / "summary.json").read_text())["hosts"]
                        verdict = f"differs in {', '.join(sorted(differ))}" if differ else "the same"
                        messages = told["messages"]
                    except (UserError, RuntimeError) as error:
                        verdict, messages = f"FAILED: {error}", None
                    wrong += verdict != "the same"
                    spent = time.perf_counter() - began
                    print(f"{experiment:8} {runtime:10} {hosts} hosts  {messages} messages  {spent:6.1f} s  {verdict}")
                    sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
