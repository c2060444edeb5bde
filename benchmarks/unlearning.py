"""What an answer costs beside retraining: every certified method on one task, and provable Newton on FEMNIST.

    python -m benchmarks.unlearning                       # the files of simulations/certified, then FEMNIST
    python -m benchmarks.unlearning --only femnist        # diagonal against public curvature against retraining
    python -m benchmarks.unlearning --only femnist --stream 50 --public 200
    python -m benchmarks.unlearning --only femnist --set training.lr=2 --set training.rounds=672

The FEMNIST part is simulations/femnist_stream.toml without its requests: one writer leaves, and with ``--stream N`` N
writers do, one after the other. Retraining is the recipe of that file, D-PSGD rounds and the polish to the same
tolerance. The factor of the public curvature is built before training; its seconds stand apart. Seconds are this
machine's; all-reduces and messages are the same everywhere. Needs FEDUNLEARN_DATA to name a folder with femnist.npz.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.certified import files, machine, ruled, say

STREAM = Path(__file__).resolve().parent.parent / "simulations" / "femnist_stream.toml"
WRITERS, TRAIN = 359, 100
HEADS = ("", "seconds", "gradients", "HVPs", "all-reduces", "messages", "MB")


def certified(paths: Sequence[Path], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Run files, each without the cache, and return what their last answer and its retraining took."""
    import fedunlearn
    from fedunlearn.config import load_experiment
    from fedunlearn.errors import UserError

    found = []
    for path in paths:
        try:
            summary = fedunlearn.run(load_experiment(path, ["runtime.cache=false", *overrides])).summary
        except UserError as refusal:
            say(f"{path.stem}: {refusal}")
            continue
        request = summary["requests"][-1]
        reduces = request["details"].get("all_reduces")
        found.append({"name": path.stem, **request["cost"], "all_reduces": reduces})
        found.append({"name": f"{path.stem}: retraining", **request["retrain_cost"], "all_reduces": None})
        say(f"{path.stem}: {request['cost']['seconds']:.2f} s")
    return found


def femnist(stream: int, public: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Let writers leave one after the other; the first answer is compared with retraining and with the diagonal."""
    from fedunlearn.config import load_experiment
    from fedunlearn.flower.client_app import app
    from fedunlearn.flower.grid import LocalGrid
    from fedunlearn.flower.transport import GridTransport
    from fedunlearn.network import Session
    from fedunlearn.simulation.learning import metered, new_network, run_recipe, situation_of
    from fedunlearn.simulation.recording import Record
    from fedunlearn.simulation.story import answer_request
    from fedunlearn.simulation.world import prepare
    from fedunlearn.unlearning.certified.newton import DIAGONAL

    leavers = [(17 + 7 * i) % TRAIN for i in range(stream)]
    roles = [f'data.public_clients="{TRAIN}-{TRAIN + public - 1}"']
    roles.append(f'data.never_members="{TRAIN + public}-{WRITERS - 1}"' if TRAIN + public < WRITERS else "")
    requests = ", ".join(f'{{level = "client", client = {i}}}' for i in leavers)
    changes = [*filter(None, roles), f"requests=[{requests}]", "runtime.cache=false", *overrides]
    experiment = load_experiment(STREAM, changes)
    world = prepare(experiment, lambda phase, done, total: say(f"{phase}: {done}/{total}"))
    with (
        LocalGrid(app) as grid,
        Session(
            GridTransport(grid, grid.get_node_ids()), world.dataset, world.model, world.features, seed=experiment.seed,
            data=experiment.data, links=experiment.links, runtime=experiment.runtime,
        ) as session,
    ):  # fmt: skip
        record = Record(experiment, None)
        network = new_network(world, session, "main", world.graph)
        situation = situation_of(world, record, release=0)
        world.unlearner.prepare(network, situation)
        run_recipe(world, network, situation, "train")
        last = world.unlearner.conclude(network, situation)
        answers: list[dict[str, Any]] = []
        compared: dict[str, dict[str, Any]] = {}
        for request in world.requests:
            situation = situation_of(world, record, release=request.number + 1, previous=last.release)
            last, cost = answer_request(world, network, request, situation)
            valid = last.certificate is not None and last.certificate.valid
            answers.append({**vars(cost), **_reduces(last.details), "valid": valid})
            if request.number:
                continue
            twin = new_network(world, session, "retrained", network.graph, deleted=network.deleted, alive=network.alive)
            apart = situation_of(world, record, request.number, world_name="retrained")

            def retrain(twin: Any = twin, apart: Any = apart) -> Any:
                run_recipe(world, twin, apart, "retrain")
                return world.unlearner.conclude(twin, apart)

            ended, spent = metered(twin, retrain, world.watch)
            compared["retraining"] = {**vars(spent), **_reduces(ended.details)}
            for name, attempt in world.unlearner.controls(twin, situation).items():
                outcome, spent = metered(twin, attempt, world.watch)
                compared[name.replace("_", " ")] = {**vars(spent), **_reduces(outcome.details)}
            twin.drop()
    found = {
        "machine": machine(), "public_writers": public, "parameters": world.model.dim,
        "recipe": f"{experiment.training.rounds} rounds at step size {experiment.training.lr:g}, then the polish",
        "factor": world.unlearner.preparation(), "answers": answers, "compared": compared,
    }  # fmt: skip
    return {**found, **ratios(answers, compared, found["factor"], DIAGONAL.replace("_", " "))}


def _reduces(details: dict[str, Any]) -> dict[str, Any]:
    return {"all_reduces": details.get("all_reduces")}


def ratios(
    answers: Sequence[dict[str, Any]], compared: dict[str, dict[str, Any]], factor: dict[str, Any] | None, diagonal: str
) -> dict[str, Any]:
    """Return the ratios that are asked for, by the first answer; of a stream also the 50th against the second."""
    first, other, retraining = answers[0], compared.get(diagonal), compared["retraining"]
    found: dict[str, Any] = {"share_of_retraining": first["seconds"] / retraining["seconds"]}
    if other is not None and factor is not None:
        saved = other["seconds"] - first["seconds"]
        found["times_fewer_all_reduces"] = other["all_reduces"] / first["all_reduces"]
        found["break_even"] = math.ceil(factor["built_in"] / saved) if saved > 0 else None
    if len(answers) >= 10:
        early, late = answers[1:6], answers[-5:]
        for key in ("seconds", "all_reduces"):
            medians = [statistics.median(a[key] for a in part) for part in (late, early)]
            found[f"last_five_against_second_to_sixth_{key}"] = medians[0] / medians[1]
    return found


def _cells(name: str, cost: dict[str, Any]) -> tuple[str, ...]:
    reduces = cost.get("all_reduces")
    return (
        name, f"{cost['seconds']:.3f}", f"{cost['gradients']:,}", f"{cost['hvps']:,}",
        "–" if reduces is None else f"{reduces:,}", f"{cost['messages']:,}", f"{cost['bytes'] / 1e6:,.1f}",
    )  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """Print the FEMNIST part for people."""
    from rich.console import Console

    lines = [_cells("unlearning, public curvature", found["answers"][0])]
    lines += [_cells(name, cost) for name, cost in found["compared"].items()]
    title = f"FEMNIST, {found['public_writers']} public writers"
    Console(width=120).print(ruled((title, *HEADS[1:]), lines))
    if (factor := found["factor"]) is not None:
        print(f"\nfactor of the public curvature, d = {found['parameters']:,}: {factor['built_in']:.2f} s, once")
    goals = {"share_of_retraining": "at most 0.03", "times_fewer_all_reduces": "at least 20"}
    print(f"retraining is {found['recipe']}")
    for name, value in found.items():
        if name in goals or name.startswith(("break_even", "last_five")):
            goal = f" (asked for: {goals[name]})" if name in goals else ""
            print(f"{name.replace('_', ' ')}: {'–' if value is None else f'{value:.3g}'}{goal}")
    if len(found["answers"]) > 1:
        heads = ("request", "seconds", "all-reduces", "certificate")
        rows = [
            (str(i), f"{a['seconds']:.3f}", str(a["all_reduces"]), "valid" if a["valid"] else "NOT valid")
            for i, a in enumerate(found["answers"], start=1)
        ]
        Console(width=120).print(ruled(heads, rows))
    print(found["machine"])


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if an answer has no valid certificate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--only", choices=["certified", "femnist"], help="one of the two parts")
    parser.add_argument("--stream", type=int, default=1, metavar="N", help="writers that leave (1 to 98)")
    parser.add_argument("--public", type=int, default=200, metavar="N", help="public writers (1 to 259)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="a change")
    options = parser.parse_args(arguments)
    if not 1 <= options.stream <= TRAIN - 2 or not 1 <= options.public <= WRITERS - TRAIN:
        parser.error(f"--stream is 1 to {TRAIN - 2}, --public is 1 to {WRITERS - TRAIN}")
    parts: dict[str, Any] = {}
    if options.only != "femnist":
        parts["certified"] = certified(files(), options.overrides)
    if options.only != "certified":
        parts["femnist"] = femnist(options.stream, options.public, options.overrides)
    if options.json:
        print(json.dumps(parts))
    else:
        from rich.console import Console

        if "certified" in parts:
            Console(width=120).print(ruled(HEADS, [_cells(c["name"], c) for c in parts["certified"]]))
        if "femnist" in parts:
            show(parts["femnist"])
    return int(not all(a["valid"] for a in parts.get("femnist", {}).get("answers", ())))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    raise SystemExit(main())
