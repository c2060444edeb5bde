"""Questions that travel together, and answers that are told again until a row changes."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.network import Network, RuntimeSettings, Session, TrainingSettings
from fedunlearn.network.inline import InlineTransport
from fedunlearn.network.training import train, train_together
from tests.worlds import image_data, model_for, ring_network

DATA = image_data()
FINITE = "fedunlearn.network.programs:finite"


def opened(hosts: int, *, immediate: bool) -> Session:
    model, features = model_for(DATA)
    runtime = RuntimeSettings(hosts=hosts, workers=0)
    return Session(InlineTransport(hosts, immediate=immediate), DATA, model, features, seed=5, runtime=runtime)


@pytest.mark.parametrize("immediate", [True, False])
def test_what_is_asked_together_is_one_message_and_what_was_true_then(immediate: bool) -> None:
    with opened(2, immediate=immediate) as session:
        network = ring_network(session)
        session.flush()
        expected, before = network.mean(), session.traffic["messages"]
        measured, mean = (
            network.measure_later(FINITE, {}),
            network.sum_later("fedunlearn.network.programs:weighted_row", {}),
        )
        network.write(np.zeros(network.dim, np.float32))
        later = network.mean_later()
        np.testing.assert_array_equal(mean.get() / 6, expected)
        assert measured.get().tolist() == [[1.0]] * 6 and not later.get().any()
        if not immediate:
            assert session.traffic["messages"] == before + 2


def test_a_mean_is_asked_for_once_until_a_row_changes() -> None:
    def asked(network: Network) -> int:
        before = network.session.traffic["messages"]
        network.mean()
        return network.session.traffic["messages"] - before

    with opened(1, immediate=True) as session:
        network = ring_network(session, momentum=True)
        mean = network.mean()
        mean[:] = 7  # a caller's own copy
        assert asked(network) == 0 and not (network.mean() == 7).any()
        state = network.save()
        network.checkpoint("here")
        changes = [
            lambda: network.mix(), lambda: network.write(np.ones(network.dim, np.float32)),
            lambda: network.broadcast(np.ones(network.dim, np.float32), operation="add"),
            lambda: network.restore(state), lambda: network.rewind("here"), network.wipe,
            lambda: train(network, TrainingSettings(rounds=1)), lambda: network.mix_by(network.weights),
        ]  # fmt: skip
        for change in changes:
            change()
            assert asked(network) == 1 and asked(network) == 0
        network.away[2] = True
        assert asked(network) == 1, "another set of vertices"


def test_populations_that_train_side_by_side_share_their_messages() -> None:
    found = []
    for together in (True, False):
        with opened(2, immediate=False) as session:
            pair = [ring_network(session, "a"), ring_network(session, "b", deleted=DATA.train_rows(1)[:2])]
            training = TrainingSettings(rounds=4, batch=5)
            if together:
                train_together(pair, training)
            else:
                for network in pair:
                    train(network, training)
            session.flush()
            found.append(([network.save()["theta"] for network in pair], session.traffic["messages"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[1][1] - found[0][1] == 2 * 4
