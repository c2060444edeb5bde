"""Real hosts behind Flower messages give the bits of hosts that are called directly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedunlearn.flower import GridTransport, LocalGrid, client_app
from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings, Transport, train
from fedunlearn.network.inline import InlineTransport
from tests.worlds import all_rows, image_data, model_for, ring_network

RECIPE = TrainingSettings(rounds=4, batch=5, lr=0.3, momentum=0.5, l2=0.01)


def story(transport: Transport, between: Callable[[], None] = lambda: None) -> tuple[np.ndarray, np.ndarray]:
    """Train, let a vertex leave and train on; return the rows and the mean. ``between`` is called round by round."""
    dataset = image_data()
    model, features = model_for(dataset)
    runtime = RuntimeSettings(hosts=transport.num_hosts, workers=0)
    with Session(transport, dataset, model, features, seed=5, runtime=runtime) as session:
        network = ring_network(session, momentum=True)

        def watch(round_: int, network: Network) -> None:
            between()

        train(network, RECIPE, last=2, watch=watch)
        graph = network.graph.copy()
        graph.remove_edges_from(list(graph.edges(4)))
        graph.add_edge(3, 5)
        network.leave(4, graph)
        train(network, RECIPE, first=2, watch=watch)
        return all_rows(network), network.mean()


@pytest.fixture(scope="module")
def direct() -> tuple[np.ndarray, np.ndarray]:
    return story(InlineTransport(1))


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_the_same_bits_over_messages(hosts: int, direct: tuple[np.ndarray, np.ndarray]) -> None:
    with LocalGrid(client_app.app, hosts) as grid:
        rows, mean = story(GridTransport(grid, grid.get_node_ids()))
    assert np.array_equal(rows, direct[0]) and np.array_equal(mean, direct[1])
    assert not client_app._attached, "closed with the session"


@pytest.mark.parametrize("hosts", [1, 2])
def test_the_same_bits_when_processes_change(
    hosts: int, direct: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes take turns, so each must find hosts by their handle and notice what the others have replaced."""
    memories: list[dict[str, tuple[int, client_app.Host]]] = [{}, {}, {}]
    folders: set[str] = set()

    def another_process() -> None:
        memories.append(memories.pop(0))
        monkeypatch.setattr(client_app, "_attached", memories[0])
        folders.update(memories[0])

    with LocalGrid(client_app.app, hosts) as grid:
        transport = GridTransport(grid, grid.get_node_ids())

        class TakingTurns:
            num_hosts, immediate = hosts, False

            def exchange(self, requests):  # type: ignore[no-untyped-def]
                another_process()
                return transport.exchange(requests)

        rows, mean = story(TakingTurns())
    assert np.array_equal(rows, direct[0]) and np.array_equal(mean, direct[1])
    assert len(folders) == hosts and not any(Path(f).exists() for f in folders), "the stores are deleted in the end"
