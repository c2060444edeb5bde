"""A made-up evaluation with plausible numbers and curves, for the tests of results, battery and plots."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import networkx as nx
import numpy as np
from example_run import LEAVER, graph

from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.randomness import generator
from fedunlearn.results.evaluation_schema import check_evaluation


def interval(value: float, half: float = 0.03) -> Estimate:
    return Estimate(value, value - half, value + half)


def measures() -> tuple[Measure, ...]:
    """Return measures of which exactly one, ``lira_tpr_…``, stands out, and one lies between retrained and control."""
    return (
        Measure(
            "loss_auc_forget_below_test", "membership", "0.5 says that losses tell nothing.",
            interval(0.612), interval(0.523), interval(0.519), interval(0.507), {"forget": 158, "test": 399},
        ),
        Measure(
            "entropy_balanced_accuracy_forget_below_test", "membership", "Half of the guesses are right by chance.",
            interval(0.581), interval(0.545, 0.01), interval(0.520), interval(0.560),
        ),
        Measure(
            "lira_tpr_at_fpr_0.01_forget_above_never_member", "shadows",
            "The share of forgotten samples found when 1 % of the others are called members.",
            interval(0.181), interval(0.094, 0.04), interval(0.011, 0.008), interval(0.013, 0.009),
        ),
        Measure(
            "l2_distance_to_retrained", "distance", "The control says how far two seeds are apart.",
            Estimate(0.8127), Estimate(0.00213), None, Estimate(0.0124),
        ),
        Measure(
            "forget_accuracy_gap_unlearned_above_retrained", "side effects", "0 says that nothing differs.",
            interval(0.0312, 0.02), interval(-0.002, 0.012), None, interval(0.001, 0.011), {"forget": 158},
        ),
    )  # fmt: skip


def roc(groups: tuple[str, ...] = ("simple, unlearned", "shadow, original", "shadow, unlearned", "control")) -> list:
    """Return binormal ROC curves."""
    attacks = {
        "simple": ["loss", "confidence", "entropy", "modified entropy", "logistic", "SVC"],
        "shadow": ["LiRA", "U-LiRA", "RMIA"], "control": ["LiRA", "loss"],
    }  # fmt: skip
    found = []
    for group in groups:
        for k, label in enumerate(attacks[group.split(",")[0]]):
            shift = {"simple, unlearned": 0.1, "shadow, original": 1.6, "shadow, unlearned": 0.8}.get(group, 0.0)
            draws = generator(4, f"{group} {label}").normal(size=(2, 400))
            inside, outside = draws[0] * (1.3 if "shadow" in group else 1) + shift * (1 - 0.25 * k), draws[1]
            cuts = np.sort(outside)[::-1]
            fpr = np.concatenate([[0.0], np.arange(1, 401) / 400])
            tpr = np.concatenate([[(inside > cuts[0]).mean()], [(inside >= c).mean() for c in cuts]])
            keep = np.unique(np.concatenate([np.arange(60), np.linspace(0, 400, 120).astype(int)]))
            found.append(
                {
                    "attack": label.lower(), "label": label, "positives": "unlearned forget", "negatives": "test",
                    "fpr": fpr[keep].tolist(), "tpr": tpr[keep].tolist(), "smallest_fpr": 1 / 400, "group": group,
                    "auc": float((inside[:, None] > outside[None]).mean()),
                }
            )  # fmt: skip
    return found


def relearning() -> dict[str, Any]:
    steps = list(range(0, 101, 2))
    k = np.array(steps)
    start = {"original": 0.12, "unlearned": 0.62, "retrained": 0.81, "control": 0.84}
    loss = {name: (0.08 + (s - 0.08) * np.exp(-k / 28)).tolist() for name, s in start.items()}
    return {"steps": steps, "target_loss": 0.13, "loss": loss}


def network(of: nx.Graph | None = None, client: int = LEAVER, gone: bool = True, rounds: bool = True) -> dict[str, Any]:
    """Return a network whose distances fall off geometrically with the hops."""
    of = graph() if of is None else of
    n = len(of)
    lengths = nx.single_source_shortest_path_length(of, client)
    hops = np.array([lengths[i] for i in range(n)])
    noise = np.exp(generator(6, "example network").normal(0, 0.12, (6, n)))
    per: dict[str, list] = {
        "distance_before": (0.9 * 0.55**hops + 0.05) * noise[0], "distance_after": 0.021 * noise[1],
        "distance_floor": 0.017 * noise[2],
        "forget_accuracy_before": 0.80 + 0.12 * 0.6**hops + 0.004 * noise[3],
        "forget_accuracy_after": 0.792 + 0.006 * noise[4], "forget_accuracy_retrained": 0.79 + 0.006 * noise[5],
        "membership_auc_before": 0.50 + 0.16 * 0.6**hops, "membership_auc_after": 0.503 + 0.004 * noise[4],
        "membership_auc_floor": 0.499 + 0.004 * noise[5], "predicted": 0.95 * 0.5**hops * noise[1],
    }  # fmt: skip
    per = {name: values.tolist() for name, values in per.items()}
    if gone:
        for name in ("distance_after", "distance_floor", "forget_accuracy_after", "membership_auc_after",
                     "forget_accuracy_retrained", "membership_auc_floor", "distance_before"):  # fmt: skip
            if name != "distance_before":
                per[name][client] = None
    far = int(hops.max())

    def mean(values: list, hop: int) -> float | None:
        there = [v for v, h in zip(values, hops) if h == hop and v is not None]
        return float(np.mean(there)) if there else None

    by_hop = {"hop": list(range(far + 1)), "count": [int((hops == h).sum()) for h in range(far + 1)]}
    by_hop |= {name: [mean(values, h) for h in range(far + 1)] for name, values in per.items()}
    per |= {"view_epsilon": [None] * n, "view_reason": ["no certificate"] * n, "learned_from_both": [None] * n}
    times = [1, 2, 3, 5, 9, 15, 25, 40]
    grow = [[0.9 * 0.55**h * (1 - np.exp(-t / (4 + 5 * h))) for h in range(far + 1)] for t in times]
    over = {
        "round": times, "hop": by_hop["hop"], "distance": grow,
        "predicted": [[1.1 * x**1.1 for x in row] for row in grow],
        "distance_floor": [[0.02 for _ in row] for row in grow], "impulse": None,
        "forget_accuracy_gap": [[0.14 * x for x in row] for row in grow],
        "membership_auc": [[0.5 + 0.14 * x for x in row] for row in grow],
    }  # fmt: skip
    return {
        "client": client, "nodes": n, "edges": [[int(i), int(j)] for i, j in of.edges()],
        "hops": [int(h) for h in hops], "per_node": per, "by_hop": by_hop, "rounds": over if rounds else None,
        "recovery": {
            "rounds": [0, 1, 2], "mean": [0.80, 0.82, 0.83], "worst": [0.70, 0.76, 0.78], "target_mean": 0.82,
            "target_worst": 0.79, "recovered_mean": 1, "recovered_worst": None,
        },
        "consensus": {"before": 0.02, "after": 0.02, "retrained": 0.021, "control": 0.022},
    }  # fmt: skip


def found() -> Found:
    """Return what a whole battery hands back."""
    refusals = (
        Refusal("forgetting_score", "populations", "it needs at least 64 models of each kind, and there are 16"),
        Refusal("lira_tpr_at_fpr_0.001", "shadows", "the smallest rate that 399 samples resolve is 0.0025"),
    )
    curves = {"roc": roc(), "relearning": relearning(), "network": network()}
    return Found(measures(), refusals, curves)


def evaluation(level: str = "full", **changes: Any) -> dict[str, Any]:
    """Return an evaluation as it is written; ``changes`` replace entries."""
    part = found()
    entries = {
        "battery": level,
        "run": {
            "name": "femnist_newton", "seed": 0, "method": "newton",
            "requests": [f"client {LEAVER} leaves with 158 samples"], "settings_sha256": "0" * 64,
        },
        "settings": {"level": level}, "samples": {"forget": 158, "retain": 400, "test": 399, "never_member": 250},
        "measures": [asdict(measure) for measure in part.measures],
        "judgements": [
            {"measure": "lira_tpr_at_fpr_0.01_forget_above_never_member", "verdict": "stands out", "grade": "models",
             "memory": True, "sentence": "the answer has 0.094, above 0.01"},
        ],
        "refusals": [asdict(refusal) for refusal in part.refusals], "curves": part.curves,
        "seconds": {"models": 1.5, "shadow models": 61.0}, "retold": None, "cached": [],
        "versions": {"fedunlearn": "0.5.0"},
    }  # fmt: skip
    return check_evaluation({**entries, **changes})
