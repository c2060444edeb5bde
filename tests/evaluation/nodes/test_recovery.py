"""Recovery: the curve is that of training the same network by hand, and the network itself stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import all_rows, image_data, model_for, open_session, ring_network

from fedunlearn.errors import UserError
from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.evaluation.nodes.recovery import SHOWN, Recovery, first_reached, follow_recovery
from fedunlearn.evaluation.settings import EvaluationSettings
from fedunlearn.network import TrainingSettings, train

DATA = image_data(sizes=(14, 40))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_curve_is_that_of_training_on(momentum):
    model, features = model_for(DATA)
    training = TrainingSettings(rounds=3, lr=0.3, momentum=momentum, final_rounds=1, final_factor=0.5)
    gone = DATA.train_rows(1)
    with open_session(DATA, model, features) as session:
        network, twin = (ring_network(session, name, momentum=momentum > 0, deleted=gone) for name in ("main", "twin"))
        evaluator = Evaluator(DATA, features, model, EvaluationSettings(), 0)
        evaluator.put_node_test(network)
        train(network, training, last=1)
        train(twin, training, last=3)
        train(twin, training.model_copy(update={"rounds": 40, "final_rounds": 0}), first=3)
        before, work, totals = all_rows(network), dict(network.work), network.ledger.totals()
        ticks: list[int] = []
        found = follow_recovery(network, twin, evaluator, training, 6, first=6, tick=ticks.append)
        np.testing.assert_array_equal(all_rows(network), before)
        assert (network.work, network.ledger.totals()) == (work, totals)
        assert ticks == list(range(len(found.mean))) and len(found.mean) > SHOWN
        by_hand = ring_network(session, "by hand", momentum=momentum > 0, deleted=gone)
        session.ask("copy", {"source": "main", "target": "by hand"})
        for k, (mean, worst) in enumerate(zip(found.mean, found.worst)):
            accuracy = evaluator.nodes(by_hand)[:, 0]
            assert (mean, worst) == (accuracy.mean(), accuracy.min())
            train(by_hand, training, first=6 + k, last=7 + k)
        target = evaluator.nodes(twin)[:, 0]
        assert (found.target_mean, found.target_worst) == (target.mean(), target.min())


def test_the_twin_itself_has_recovered_at_once():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        network = ring_network(session)
        train(network, TrainingSettings(rounds=3, lr=0.3))
        evaluator = Evaluator(DATA, features, model, EvaluationSettings(), 0)
        evaluator.put_node_test(network)
        found = follow_recovery(network, network, evaluator, TrainingSettings(rounds=3, lr=0.3), 9, first=6)
    assert found.recovered_mean == found.recovered_worst == 0
    assert len(found.mean) == SHOWN + 1  # no longer than needed for a curve


def test_training_that_diverges_is_a_fault_of_the_settings():
    model, features = model_for(DATA)
    with open_session(DATA, model, features) as session:
        network = ring_network(session)
        evaluator = Evaluator(DATA, features, model, EvaluationSettings(), 0)
        evaluator.put_node_test(network)
        with pytest.raises(UserError, match="diverge"):
            follow_recovery(network, network, evaluator, TrainingSettings(rounds=3, lr=10.0, l2=1e8), 9, first=6)


def test_a_target_is_reached_up_to_half_a_percent():
    assert first_reached((0.80, 0.89, 0.8949, 0.895, 0.91), 0.9) == 3
    assert first_reached((0.80, 0.89), 0.9) is None
    assert first_reached((1.0, 0.2), 0.9) == 0
    found = Recovery((0.5, 0.8), (0.1, 0.2), 0.8, 0.9)
    assert (found.recovered_mean, found.recovered_worst) == (1, None)
