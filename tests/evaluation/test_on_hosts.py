"""Samples that lie with their hosts are judged there: the numbers of a direct computation, and none of one sample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from fedunlearn.evaluation.on_hosts import judge
from fedunlearn.network import RuntimeSettings, Session
from fedunlearn.network.inline import InlineTransport
from tests.worlds import image_data, model_for, ring_network

DATA = image_data()
MODEL, FEATURES = model_for(DATA)
ROWS, OFFSETS = DATA.all_train_rows()
THETA = np.random.default_rng(4).normal(size=MODEL.dim).astype(np.float32)


def by_hand(ids: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Accuracy and area from the weights themselves, all pairs counted one by one."""
    x = FEATURES.apply(DATA.inputs[ids]).reshape(len(ids), -1).astype(float)
    scores = log_softmax(x @ THETA.astype(float).reshape(MODEL.num_classes, -1).T, axis=1)
    losses = -scores[np.arange(len(ids)), DATA.labels[ids]]
    pairs = (losses[:, None] < others).mean() + (losses[:, None] == others).mean() / 2
    return float((scores.argmax(1) == DATA.labels[ids]).mean()), float(pairs)


@pytest.mark.parametrize("hosts", [1, 3])
def test_accuracy_and_area_are_those_of_a_direct_computation(hosts: int) -> None:
    others = np.random.default_rng(1).exponential(2.0, 37)
    transport = InlineTransport(hosts)
    runtime = RuntimeSettings(hosts=hosts, workers=0)
    with Session(transport, DATA, MODEL, FEATURES, seed=0, runtime=runtime) as session:
        network = ring_network(session)
        for ids in (ROWS, ROWS[::3], ROWS[OFFSETS[2] : OFFSETS[3]]):
            accuracy, area = judge(network, THETA, ids, others)
            expected = by_hand(ids, others)
            assert accuracy == expected[0] and area == pytest.approx(expected[1], abs=1e-9)
            assert judge(network, THETA, ids) == (accuracy, None)
        assert judge(network, THETA, ROWS, np.array([1.0, np.nan])).membership_auc is None
        gone, left = ROWS[::4], np.setdiff1d(ROWS, ROWS[::4])
        network.erase(gone)
        assert judge(network, THETA, ROWS, others) == pytest.approx(by_hand(left, others), abs=1e-9)
        assert judge(network, THETA, gone, others) == (None, None)
        for host in transport._hosts:
            assert np.isnan(host.store["vector.at"]).all(), "the model does not stay on the hosts"
