"""Collects what a run measures, and writes the run directory at its end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.config import Experiment, dump_toml
from fedunlearn.data import FederatedDataset, Role
from fedunlearn.errors import UserError
from fedunlearn.evaluation.influence import Influence
from fedunlearn.faults import TraceSummary
from fedunlearn.models import Model
from fedunlearn.network import Network, Session
from fedunlearn.privacy import Certificate, code_sha256, file_sha256
from fedunlearn.requests import Decisions, DeletionRequest
from fedunlearn.results import MetricRow, RunDirectory, check_summary, versions
from fedunlearn.results.run_directory import MODELS
from fedunlearn.simulation.training_cache import Point
from fedunlearn.topology import spectrum_of
from fedunlearn.topology.partition import border_share, cut_edges
from fedunlearn.unlearning.base import Cost, Outcome

RELEASE = "release-"
"""How the names of released models begin; their number follows."""


class Record:
    """The record of one run, in memory until :meth:`finish`; with ``out`` it becomes a run directory.

    With ``directory`` it goes on in the folder of a run that was interrupted, whose settings are ``experiment``.
    """

    def __init__(self, experiment: Experiment, out: Path | None, *, directory: RunDirectory | None = None) -> None:
        self.experiment = experiment
        settings = dump_toml(experiment) if directory is None else directory.read_settings()
        if out is not None and directory is None:
            directory = RunDirectory.create(out, settings=settings)
        self.directory = directory
        self.hashes = {"settings.toml": hashlib.sha256(settings.encode()).hexdigest(), "code": code_sha256()}
        self.rows: list[MetricRow] = []
        self.certificates: list[Certificate] = []
        self.influence: Influence | None = None
        self.moved: NDArray[np.float64] | None = None
        self.graph: nx.Graph = nx.Graph()
        self.cache: dict[str, Any] = {"used": False, "hits": [], "purged": [], "kept": []}
        self.together: dict[str, int] = {}
        self.resumed: list[str] = []
        self.answering: dict[int, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self.summary: dict[str, Any] = {
            "name": experiment.name, "seed": experiment.seed, "versions": versions(), "models": {}, "requests": [],
        }  # fmt: skip

    # --- to go on with -----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that was recorded and lies in no file yet."""
        return {name: getattr(self, name) for name in _RECORDED} | {"rows": [tuple(row) for row in self.rows]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave.

        Raises:
            UserError: if a model file that was written by then is not there, or not as it was written.
        """
        for name in _RECORDED:
            setattr(self, name, state[name])
        self.rows = [MetricRow(*row) for row in state["rows"]]
        if self.directory is not None:
            for name, written in self.files.items():
                _refuse_other(self.directory.path / _file_of(name), written)

    # --- while the run goes on ---------------------------------------------------------------------------------------

    def describe(self, dataset: FederatedDataset, network: Network, model: Model) -> None:
        """Write down data, topology and model."""
        self.graph = network.graph
        if not dataset.is_whole:
            self.summary["notes"].append(_ON_HOSTS)
        mixing = spectrum_of(network.graph, network.mixing)
        self.summary |= {
            "data": {
                "name": dataset.name, "synthetic": dataset.synthetic, "clients": network.num_nodes,
                "samples": network.total_samples, "sha256": dataset.sha256(), "provenance": dataset.provenance,
                "public_clients": len(dataset.clients(Role.PUBLIC)),
                "never_members": len(dataset.clients(Role.NEVER_MEMBER)),
            },
            "topology": {
                "nodes": network.num_nodes, "edges": network.graph.number_of_edges(),
                "generator": self.experiment.topology.generator, "mixing": network.mixing,
                "spectral_gap": mixing.gap, "rho": mixing.rho, "mixing_time": mixing.mixing_time,
            },
            "model": {
                "name": model.spec["name"], "features": self.experiment.model.features, "parameters": model.dim,
            },
        }  # fmt: skip

    def add_training(self, phase: str, points: Sequence[Point], *, hit: bool, together: int) -> None:
        """Add a training: where it came from, and its curve, round by round: the average model, the spread of nodes."""
        if hit:
            self.cache["hits"].append(phase)
        self.together[phase] = together
        model = _MODEL_OF[phase.split()[0]]
        self.rows += [
            MetricRow(round_, phase, model, "test", scope, "accuracy", value)
            for round_, values in points
            for scope, value in values.items()
        ]

    def add_model(self, name: str, theta: NDArray[Any], entry: dict[str, Any]) -> None:
        """Add one model's entry of the summary, and its file."""
        self.summary["models"][name] = entry
        self._write(name, np.asarray(theta, dtype=np.float32), {"what": name})

    def persist(self, number: int, release: NDArray[np.float32]) -> None:
        """Store a noised release before it is broadcast."""
        self._write(f"{RELEASE}{number}", release, {"release": number})

    def _write(self, name: str, theta: NDArray[np.float32], info: dict[str, Any]) -> None:
        if self.directory is not None:
            path = self.directory.write_model(name, theta, {"model": self.experiment.model.name, **info})
            self.files[name] = file_sha256(path)

    @property
    def releases(self) -> list[int]:
        """The numbers of the releases that were stored."""
        return [int(name.removeprefix(RELEASE)) for name in self.files if name.startswith(RELEASE)]

    def add_request(
        self, request: DeletionRequest, outcome: Outcome, cost: Cost, retrain_cost: Cost, distances: dict[str, Any]
    ) -> None:
        """Add one answered request: certificate, cost, and distances to the retrained twin."""
        certificate, further = outcome.certificate, list(outcome.further_certificates)
        if outcome.release is not None and self.directory is not None:
            name = f"{RELEASE}{request.number + 1}"
            hashes = {_file_of(name): self.files[name]}
            certificate = None if certificate is None else certificate.with_hashes(hashes)
            further = [each.with_hashes(hashes) for each in further]
        self.certificates += [*([] if certificate is None else [certificate]), *further]
        self.summary["requests"].append(
            {
                "request": {
                    "level": request.level, "client": request.node, "label": request.label,
                    "samples": len(request.sample_ids), "leaves": list(request.leaves), "text": request.describe(),
                    "asked": list(request.asked), "askers": list(request.askers),
                },
                "method": self.experiment.unlearning.method,
                "certificate": None if certificate is None else certificate.to_dict(),
                "certificate_reason": outcome.certificate_reason,
                "further_certificates": [each.to_dict() for each in further],
                "fell_back_to_retraining": outcome.fell_back_to_retraining,
                "details": outcome.details,
                **({"faults": self.answering[request.number]} if request.number in self.answering else {}),
                "influence": self._influence_entry(request),
                "cost": asdict(cost),
                "retrain_cost": {
                    **asdict(retrain_cost), "cached": (phase := f"retrain {request.number}") in self.cache["hits"],
                    "together": self.together[phase],
                },
                **distances,
            }
        )  # fmt: skip

    def add_decisions(self, decisions: Decisions) -> None:
        """Write down which requests are refused, and why, and what those who run the network should know."""
        self.summary |= {"refused": [asdict(refusal) for refusal in decisions.refused], "notes": list(decisions.notes)}

    def add_preparation(self, made: dict[str, Any] | None) -> None:
        """Add what the method built from public data before training, and what that took."""
        if made is not None:
            self.summary["preparation"] = {**made, "break_even": None}

    def add_control(self, name: str, entry: dict[str, Any], cost: Cost, limit: float | None = None) -> None:
        """Add what the last request would have taken from another start, to its entry."""
        controls = self.summary["requests"][-1].setdefault("controls", {})
        controls[name] = {**asdict(cost), "test_accuracy": entry["test_accuracy"], "allowed_difference": limit}
        made = self.summary.get("preparation")
        if made is not None and made["without"] == name:
            saved = cost.seconds - self.summary["requests"][-1]["cost"]["seconds"]
            made["break_even"] = math.ceil(made["built_in"] / saved) if saved > 0 else None

    def _influence_entry(self, request: DeletionRequest) -> dict[str, Any] | None:
        found = self.influence
        if found is None or found.client != request.node or request.level != "client":
            return None
        return {
            "client": found.client, "rms_gap": found.rms_gap(),
            "predicted": found.predicted.tolist(), "measured": found.measured.tolist(),
        }  # fmt: skip

    def add_trace(self, world_trace: TraceSummary | None) -> None:
        """Add what the faults of the training rounds were, in total and round by round."""
        if world_trace is not None:
            columns = {name: world_trace.columns.get(name, []) for name in _COLUMNS}
            self.summary["faults"] = {**world_trace.totals(), "by_round": columns}

    def add_hosts(self, session: Session, graph: nx.Graph) -> None:
        """Add who carried the vertices of the graph, and what hosts and conductor sent each other."""
        cut, share = cut_edges(graph, session.host_of), border_share(graph, session.host_of)
        count = {"count": len(session.blocks), "workers": session.workers}
        self.summary["hosts"] = {**count, "cut_edges": cut, "border_share": share, **session.traffic}
        if session.unclosed is not None:
            self.summary["notes"].append(session.unclosed)

    # --- at the end --------------------------------------------------------------------------------------------------

    def finish(self, seconds: dict[str, float], ledger: dict[str, Any]) -> tuple[dict[str, Any], Path | None]:
        """Write summary, metrics, certificates, ledger and figures; return the summary and the finished folder."""
        totals = {key: ledger[key] for key in ("messages", "bytes", "by_kind")}
        cached = list(dict.fromkeys(phase.split()[0] for phase in self.cache["hits"]))
        shared = list(dict.fromkeys(phase.split()[0] for phase, count in self.together.items() if count > 1))
        self.summary |= {
            "seconds": {**seconds, "cached": cached, "shared": shared}, "cache": self.cache, "ledger": totals,
            "resumed": self.resumed,
        }  # fmt: skip
        if self.directory is None:
            return check_summary(self.summary), None
        from fedunlearn.plots import draw_all

        self.directory.write_certificates(self.certificates)
        self.directory.write_metrics(self.rows)
        self.directory.write_ledger(ledger)
        summary = self.directory.write_summary(self.summary)
        draw_all(self.directory.path, self.graph, moved=self.moved, influence=self.influence)
        return summary, self.directory.finish()

    def abandon(self, error: BaseException) -> None:
        """Leave what there is under a name that says the run failed."""
        if self.directory is not None:
            self.directory.fail(error)


def _file_of(name: str) -> str:
    """Return where the file of a model is in a run's folder."""
    return f"{MODELS}/{name}.safetensors"


def _refuse_other(path: Path, written: str) -> None:
    """Raise UserError if a file is not there, or does not have the hash that it was written with."""
    try:
        found = file_sha256(path)
    except OSError as error:
        found = error.strerror or str(error)
    if found != written:
        raise UserError(
            f"'{path}' is not what this run wrote (then {written}, now {found}), so it cannot be resumed (allowed: "
            "put the file back, or start a new run)"
        )


_ON_HOSTS = (
    "the training samples lie with their hosts alone: no training is cached, and deleted samples are not measured once "
    "they are erased"
)
_RECORDED = ("certificates", "influence", "moved", "cache", "together", "resumed", "summary", "answering", "files")
_COLUMNS = ("round", "here", "active", "links_up", "adoptions", "sent", "lost", "late", "spread", "disagreement")
_MODEL_OF = {"train": "original", "retrain": "retrained", "unlearn": "unlearned"}
