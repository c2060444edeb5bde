"""A made-up run with plausible numbers, for the tests of results and plots."""

from __future__ import annotations

import dataclasses
from typing import Any

import networkx as nx
import numpy as np

from fedunlearn.privacy import Certificate, RunFacts, calibrate, certify
from fedunlearn.randomness import generator
from fedunlearn.results import MetricRow, node_scope
from fedunlearn.results.metrics import AVERAGE, NODES_MAX, NODES_MEAN, NODES_MIN, NODES_STD

NODES, LEAVER = 40, 17


def certificate(epsilon: float = 1.0, delta: float = 1e-5, **changes: Any) -> Certificate:
    """Return a certificate as a real run issues it; ``changes`` are facts of the run that are different."""
    fixed = calibrate(epsilon, delta, lam=0.01)
    facts = RunFacts(
        method="newton", granularity="client", lam=0.01, l2_on_all_parameters=True, convex_loss=True,
        retained_objective=True, retraining_always_stops=True, tau=fixed.tau, gradient_norm=fixed.tau / 3,
        gradient_dtype="float64", rounding_bound=1e-12, softmax_loss=True, features_bounded=True, dim=7998,
        extractor="public", release="one-vector", nodes=1, fresh_draw=True, sigma_drawn=fixed.sigma, start="released",
        state_erased=True, retained_messages_only=True,
    )  # fmt: skip
    hashes = {"settings.toml": "0" * 64, "extractor": "1" * 64, "extractor_training_rows": "2" * 64}
    return certify(dataclasses.replace(facts, **changes), epsilon, delta, noise="simulated", hashes=hashes)


def graph() -> nx.Graph:
    """Return a connected small-world graph."""
    return nx.connected_watts_strogatz_graph(NODES, 4, 0.15, seed=3)


def moved() -> np.ndarray:
    """Return how far every node's model moved, larger near the leaver; NaN for the leaver."""
    hops = nx.single_source_shortest_path_length(graph(), LEAVER)
    noise = generator(5, "example").normal(0, 0.04, NODES)
    values = np.array([0.9 * 0.72 ** hops[i] + 0.12 for i in range(NODES)]) * np.exp(noise)
    values[LEAVER] = np.nan
    return values


def measured(
    test: float, retain: float, forget: float, never: float, auc: float, spread: bool = True
) -> dict[str, Any]:
    """Return one entry of ``models``."""
    nodes = {"mean": test - 0.011, "std": 0.0062, "min": test - 0.027, "max": test + 0.002}
    return {
        "test_accuracy": test, "test_loss": 1.9 * (1 - test), "retain_accuracy": retain, "forget_accuracy": forget,
        "never_member_accuracy": never, "node_test_accuracy": nodes if spread else None,
        "membership_auc_forget_vs_test": auc,
    }  # fmt: skip


def summary(certified: Certificate | None = None) -> dict[str, Any]:
    """Return a summary that fits the schema."""
    issued = certificate() if certified is None else certified
    return {
        "schema": "fedunlearn/summary/2", "name": "femnist_newton", "seed": 0,
        "versions": {"fedunlearn": "0.2.0", "python": "3.12.3", "torch": "2.13.0", "numpy": "2.4.1"},
        "data": {"name": "femnist", "synthetic": False, "clients": NODES, "samples": 7213, "sha256": "a" * 64},
        "topology": {
            "nodes": NODES, "edges": 80, "generator": "watts-strogatz", "mixing": "metropolis",
            "spectral_gap": 0.0932, "rho": 0.9068, "mixing_time": 38.0,
        },
        "model": {"name": "softmax", "features": "frozen", "parameters": 7998},
        "models": {
            "original": measured(0.8391, 0.8712, 0.8867, 0.8204, 0.5713),
            "retrained": measured(0.8379, 0.8709, 0.8431, 0.8198, 0.5204),
            "unlearned": measured(0.8376, 0.8703, 0.8418, 0.8201, 0.5197),
            "public_head": measured(0.7018, 0.7102, 0.6931, 0.7044, 0.4951, spread=False),
        },
        "requests": [
            {
                "request": {
                    "level": "client", "client": LEAVER, "label": None, "samples": 158, "leaves": [LEAVER],
                    "text": f"client {LEAVER} leaves with 158 samples",
                },
                "method": "newton", "certificate": issued.to_dict(), "certificate_reason": "",
                "further_certificates": [],
                "distance_to_retrained": 0.0021, "distance_before": 0.8127, "prediction_distance_to_retrained": 0.00043,
                "influence": None,
                "faults": None,
                "cost": {
                    "seconds": 0.41, "gradients": 3, "hvps": 9, "messages": 1014, "bytes": 64885776,
                    "network_seconds": 3.2,
                },
                "retrain_cost": {
                    "seconds": 8.13, "gradients": 6, "hvps": 31, "messages": 9288, "bytes": 311286096,
                    "network_seconds": 31.7, "cached": False, "together": 1,
                },
                "controls": {},
            }
        ],
        "seconds": {
            "setup": 2.31, "train": 7.94, "retrain": 8.13, "unlearn": 0.41, "evaluate": 1.12, "total": 19.9,
            "cached": [], "shared": [],
        },
        "refused": [],
        "notes": [],
        "preparation": None,
        "cache": {"used": True, "hits": [], "purged": [], "kept": []},
        "memory": None,
        "hosts": None,
        "faults": None,
        "resumed": [],
        "ledger": {"messages": 19590, "bytes": 702134928},
    }  # fmt: skip


def metrics(rounds: int = 60, every: int = 4) -> list[MetricRow]:
    """Return learning curves of the original and the retrained network, the answer, and how far each node moved."""
    rows = []
    for phase, model, end in (("train", "original", 0.8391), ("retrain 0", "retrained", 0.8379)):
        noise = generator(7, phase).normal(0, 0.004, rounds + 1)
        for k in range(0, rounds + 1, every):
            top = end - 0.72 * np.exp(-k / 9) + noise[k] * np.exp(-k / 25)
            gap = 0.012 + 0.05 * np.exp(-k / 14)
            scopes = {AVERAGE: top, NODES_MEAN: top - gap, NODES_STD: gap / 2, NODES_MIN: max(0, top - 2.3 * gap)}
            scopes[NODES_MAX] = top - gap / 4
            rows += [MetricRow(k, phase, model, "test", s, "accuracy", float(v)) for s, v in scopes.items()]
    rows.append(MetricRow(rounds, "unlearn 0", "unlearned", "test", AVERAGE, "accuracy", 0.8376))
    for node, value in enumerate(moved()):
        if np.isfinite(value):
            rows.append(MetricRow(rounds, "unlearn 0", "unlearned", "", node_scope(node), "moved", float(value)))
    return rows
