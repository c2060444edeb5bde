"""How far one client's contribution travels: predicted by the mixing matrix, measured by leaving it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network import Network, TrainingSettings
from fedunlearn.network.training import local_steps
from fedunlearn.topology import influence as predicted_influence


@dataclass(frozen=True)
class Influence:
    """``predicted[k, j] = [W^k]_ju`` and the measured counterpart, both (rounds + 1, N), row 0 before any mixing.

    ``measured[k, j] = ||x_j^k - x~_j^k|| / ||x_u^0 - x~_u^0||`` where the second trajectory lacks the client's update
    of one round and is otherwise trained alike (first order: docs/topologies.md).
    """

    client: int
    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]

    def rms_gap(self) -> float:
        """Return the root mean square difference of prediction and measurement over rounds and nodes."""
        return float(np.sqrt(np.nanmean(np.square(self.predicted - self.measured))))


def measure_influence(network: Network, client: int, training: TrainingSettings, rounds: int) -> Influence:
    """Follow one update of a client through ``rounds`` rounds of ordinary training, on two short-lived copies.

    Both copies start from the network's mean model and are trained by the recipe; in the second the client skips its
    local steps of the first round, so to first order (later gradients unchanged) the copies differ at node j after k
    rounds by that update times ``[W^k]_ju``. It reads the client's data, so it runs before the request is answered.
    """
    start = network.mean().astype(np.float32)
    lack: dict[str, Any] = {"deleted": network.deleted, "alive": network.alive}
    copies = [
        Network(network.session, name, network.graph, network.mixing, start, seed=network.seed, **lack)
        for name in ("influence-with", "influence-without")
    ]
    plain = training.model_copy(update={"momentum": 0.0, "algorithm": "dsgd"})
    everyone = [int(i) for i in np.flatnonzero(network.alive)]
    for copy, nodes in zip(copies, (everyone, [i for i in everyone if i != client])):
        copy.phase = "evaluate"
        local_steps(copy, plain, 0, nodes)
    assert copies[0].weights is not None, "influence needs a fixed mixing matrix"
    predicted = predicted_influence(copies[0].weights, client, rounds)
    measured = np.full((rounds + 1, network.num_nodes), np.nan)
    for k in range(rounds + 1):
        for copy in copies if k else ():
            if k > 1:
                local_steps(copy, plain, k - 1)
            copy.mix()
        distance = copies[0].measure("fedunlearn.evaluation.programs:row_distance", {"other": copies[1].name})[:, 0]
        measured[k] = distance
    size = measured[0, client]
    for copy in copies:
        copy.drop()
    return Influence(client, predicted, measured / size if size > 0 else measured)
