"""All figures of a run, from the files of its run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from fedunlearn.plots.accuracy import accuracy_over_rounds
from fedunlearn.plots.certificates import certificate_curves, default_names, drawable
from fedunlearn.plots.comparison import comparison
from fedunlearn.plots.faults import faults_over_rounds
from fedunlearn.plots.influence import influence_over_rounds
from fedunlearn.plots.moved import topology_moved
from fedunlearn.plots.style import save
from fedunlearn.privacy import read_certificates
from fedunlearn.results.metrics import MetricRow, node_of, read_metrics
from fedunlearn.results.reading import read_summary
from fedunlearn.results.run_names import CERTIFICATES, FIGURES, METRICS
from fedunlearn.results.words import describe_request

MOVED = "moved"
"""Metric of metrics.csv that holds how far each node's model moved, under the scopes ``node:<id>``."""


class InfluenceNumbers(Protocol):
    """What is drawn of a client's influence; :class:`fedunlearn.evaluation.influence.Influence` offers it."""

    @property
    def client(self) -> int:
        """The vertex whose contribution is followed."""

    @property
    def predicted(self) -> NDArray[np.float64]:
        """Predicted influence (rounds + 1, N)."""

    @property
    def measured(self) -> NDArray[np.float64]:
        """Measured influence (rounds + 1, N)."""


@dataclass(frozen=True)
class _Reported:
    client: int
    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]


def draw_all(
    run_dir: Path | str, graph: nx.Graph | None = None, *, moved: NDArray[np.float64] | None = None,
    influence: InfluenceNumbers | None = None,
) -> list[Path]:  # fmt: skip
    """Draw every figure that the files of a run directory give, into its folder ``figures``, and return their paths.

    Args:
        run_dir: the folder, also one that is not finished yet: summary.json, metrics.csv and certificate.json are read.
        graph: vertices 0..N-1 with the edges before any departure; without it topology and influence are not drawn.
        moved: how far each node's model moved (N,); by default the metric ``moved`` of metrics.csv.
        influence: a client's influence; by default the first that a request in summary.json reports.

    Raises:
        UserError: if one of the files cannot be read.
    """
    folder = Path(run_dir)
    summary, rows = read_summary(folder), read_metrics(folder / METRICS)
    certificates = [certificate.to_dict() for certificate in read_certificates(folder / CERTIFICATES)]
    target = folder / FIGURES
    paths = [
        save(accuracy_over_rounds(rows, request=_requests(summary)), target / "accuracy.png"),
        save(comparison(summary), target / "comparison.png"),
    ]
    if summary.get("faults") is not None:
        paths.append(save(faults_over_rounds(summary, rows), target / "faults.png"))
    distances = _moved(rows, graph) if moved is None else moved
    if graph is not None and distances is not None:
        leavers = tuple(node for entry in summary["requests"] for node in entry["request"].get("leaves", ()))
        paths.append(save(topology_moved(graph, distances, leaver=leavers), target / "topology.png"))
    spread = _reported(summary) if influence is None else influence
    if graph is not None and spread is not None:
        figure = influence_over_rounds(spread.predicted, spread.measured, graph, spread.client)
        paths.append(save(figure, target / "influence.png"))
    names = default_names([str(certificate["kind"]) for certificate in certificates])
    if shown := [(c, name) for c, name in zip(certificates, names) if drawable(c)]:
        paths.append(
            save(certificate_curves([c for c, _ in shown], [name for _, name in shown]), target / "certificate.png")
        )
    return paths


def _requests(summary: Mapping[str, Any]) -> str:
    requests = summary["requests"]
    return describe_request(requests[0]["request"]) if len(requests) == 1 else f"{len(requests)} deletion requests"


def _reported(summary: Mapping[str, Any]) -> InfluenceNumbers | None:
    for entry in summary["requests"]:
        found = entry.get("influence")
        if found and {"client", "predicted", "measured"} <= set(found):
            arrays = (np.array(found[key], dtype=np.float64) for key in ("predicted", "measured"))  # null becomes NaN
            return _Reported(int(found["client"]), *arrays)
    return None


def _moved(rows: Sequence[MetricRow], graph: nx.Graph | None) -> NDArray[np.float64] | None:
    """Return the metric ``moved`` of the last phase that has it, (N,); None if no phase has."""
    found = [(row, node) for row in rows if row.metric == MOVED and (node := node_of(row.scope)) is not None]
    if graph is None or not found:
        return None
    values = np.full(graph.number_of_nodes(), np.nan)
    for row, node in found:
        if row.phase == found[-1][0].phase and node < len(values):
            values[node] = row.value
    return values
