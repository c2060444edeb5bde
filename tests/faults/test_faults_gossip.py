"""One round as matrices: balanced rounds against the mixing rules, push-sum against messages carried one by one."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from fault_worlds import RULES, course, courses, mask
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedunlearn.faults import Carried, Course
from fedunlearn.faults.gossip import edge_weights, matched
from fedunlearn.topology import check_doubly_stochastic, mixing_matrix, random_matching
from fedunlearn.topology.graphs import edge_array, graph_of


class Messages:
    """Push-sum told as it happens: every node has x and w, every message carries a share of both, one by one.

    It shares no arithmetic with the code under test: sums x = w z, a list of messages, and no matrix. The draws (who is
    here, what is lost or late, whom a node pushes to) are the trace's, asked for one message at a time.
    """

    def __init__(self, it: Course, rows: np.ndarray) -> None:
        self.trace, self.rule, self.seed = it.trace, it.rule, it.seed
        self.w = {int(i): 1.0 for i in np.flatnonzero(it.state.members.active)}
        self.x = {i: rows[i].copy() for i in self.w}
        self.under_way: list[tuple[int, int, float, np.ndarray]] = []  # due, receiver, weight, weighted row
        self.gone_w, self.gone_x = 0.0, np.zeros(rows.shape[1])

    def total(self) -> tuple[float, np.ndarray]:
        w = sum(self.w.values()) + sum(m[2] for m in self.under_way)
        x = sum(self.x.values()) + sum((m[3] for m in self.under_way), start=np.zeros(len(self.gone_x)))
        return w, x

    def _go(self, w: float, x: np.ndarray) -> None:
        self.gone_w += w
        self.gone_x = self.gone_x + x

    def begin(self, round_, rows: np.ndarray, scale: float) -> None:
        """Those who went away take their weight with them; sources share theirs evenly with their adopters.

        Whoever begins or goes on with nobody to adopt from has the weight 1 of the scaled numbers.
        """
        active = set(np.flatnonzero(round_.who.active).tolist())
        for node in list(self.w):
            if node not in active:
                self._go(self.w.pop(node), self.x.pop(node))
        takers: dict[int, list[int]] = {}
        for node, source in zip(round_.who.adopters.tolist(), round_.who.sources.tolist()):
            takers.setdefault(source, []).append(node)
        for source, nodes in takers.items():
            part_w, part_x = self.w[source] / (len(nodes) + 1), self.x[source] / (len(nodes) + 1)
            for node in [source, *nodes]:
                self.w[node], self.x[node] = part_w, part_x.copy()
        for node in active - set(self.w):
            self.w[node], self.x[node] = 1 / scale, rows[node] / scale

    def move(self, node: int, step: np.ndarray) -> None:
        """A local step changes z by ``step``."""
        self.x[node] = self.x[node] + self.w[node] * step

    def gossip(self, round_) -> None:
        t, neighbours = round_.number, {node: [] for node in self.w}
        for a, b in round_.edges.tolist():
            neighbours[a].append(b)
            neighbours[b].append(a)
        heard = [m for m in self.under_way if m[0] <= t]
        self.under_way = [m for m in self.under_way if m[0] > t]
        w, x = dict(self.w), dict(self.x)
        for j in sorted(neighbours):
            for i, share in self._recipients(j, neighbours, t):
                message_w, message_x = share * w[j], share * x[j]
                lost = bool(self.trace.lost(np.array([j]), np.array([i]), t)[0])
                delay = int(self.trace.delays(np.array([j]), np.array([i]), t)[0])
                if lost and self.trace.settings.on_loss == "kept":
                    continue
                self.w[j], self.x[j] = self.w[j] - message_w, self.x[j] - message_x
                if lost:
                    self._go(message_w, message_x)
                elif delay:
                    self.under_way.append((t + delay, i, message_w, message_x))
                else:
                    heard.append((t, i, message_w, message_x))
        for _, i, message_w, message_x in heard:
            if i in self.w:
                self.w[i], self.x[i] = self.w[i] + message_w, self.x[i] + message_x
            else:
                self._go(message_w, message_x)

    def _recipients(self, j: int, neighbours: dict[int, list[int]], t: int) -> list[tuple[int, float]]:
        near = sorted(neighbours[j])
        if not near:
            return []
        if self.trace.settings.gossip == "push":
            chosen = self.trace.pushed(np.full(len(near), j), np.array(near), t)
            return [(near[int(np.flatnonzero(chosen)[0])], 0.5)]
        degree = {i: len(near) for i, near in neighbours.items()}
        top = max(degree.values())
        if self.trace.settings.gossip == "pairwise" or self.rule == "random-matching":
            edges = np.array([(a, b) for a in neighbours for b in neighbours[a] if a < b])
            pairs = {frozenset(p) for p in matched(edges[np.lexsort(edges.T[::-1])], 99, self.seed, t).tolist()}
            return [(i, 0.5) for i in near if frozenset((i, j)) in pairs]
        lazy = 0.5 if self.rule.startswith("lazy") else 1.0
        flat = self.rule.endswith("max-degree")
        return [(i, lazy / (1 + (top if flat else max(degree[i], degree[j])))) for i in near]


@given(courses(weighted=True), st.integers(0, 2**30))
@settings(max_examples=45, deadline=None)
def test_rounds_are_what_messages_one_by_one_amount_to(it, seed):
    """Local steps in between, churn, failures, losses and delays: z = x / w for every node in every round."""
    rng = np.random.default_rng(seed)
    size = it.trace.num_nodes
    carried = Carried(rng.normal(size=(size, 2)))
    told = Messages(it, carried.rows)
    scale = 1.0
    for _ in range(10):
        round_ = it.step()
        carried.adopt(round_)
        told.begin(round_, carried.rows, scale)
        for node in np.flatnonzero(round_.who.active).tolist():
            step = rng.normal(size=2)
            carried.rows[node] += step
            told.move(node, step)
        total_w, total_x = told.total()
        gone_w, gone_x = told.gone_w, told.gone_x
        carried.mix(round_)
        told.gossip(round_)
        after_w, after_x = told.total()
        assert after_w + told.gone_w - gone_w == pytest.approx(total_w)  # the messages' own law, before it is used
        assert after_x + told.gone_x - gone_x == pytest.approx(total_x)
        scale *= round_.mixed.scale
        assert set(told.w) == set(np.flatnonzero(round_.who.active).tolist())
        for node in told.w:
            assert round_.mixed.weights[node] == pytest.approx(scale * told.w[node], rel=1e-9)
            assert carried.rows[node] == pytest.approx(told.x[node] / told.w[node], rel=1e-7, abs=1e-9)
        under_way = sum(m[2] for m in told.under_way)
        assert round_.mixed.flight.mass.sum() == pytest.approx(scale * under_way, rel=1e-9, abs=1e-12)


@given(courses())
@settings(max_examples=35, deadline=None)
def test_rows_sum_to_one_over_all_ages_and_nobody_who_is_away_moves(it):
    for _ in range(8):
        round_ = it.step()
        mats, active = [m.toarray() for m in round_.mixed.matrices], round_.who.active
        assert len(mats) == 1 + it.trace.settings.max_delay
        assert sum(mats).sum(axis=1) == pytest.approx(1.0, abs=1e-12)
        assert all((m >= 0).all() for m in mats)
        idle = np.flatnonzero(~active)
        assert np.array_equal(mats[0][idle], np.eye(len(active))[idle])
        assert not any(m[idle].any() for m in mats[1:])
        assert not mats[0][np.ix_(active, ~active)].any()
        if not it.trace.settings.weighted:
            check_doubly_stochastic(round_.mixed.matrices[0])
            assert np.array_equal(round_.mixed.weights, active.astype(float))


@given(courses(weighted=True))
@settings(max_examples=35, deadline=None)
def test_weight_is_conserved_up_to_what_is_said_to_be_lost(it):
    for _ in range(10):
        before = it.state.weights.sum() + it.state.flight.mass.sum()
        seen = it.state.weights > 0
        mixed = (round_ := it.step()).mixed
        assume(len(round_.who.restarts) == 0 and (seen[round_.who.active].any() or not round_.who.active.any()))
        after = mixed.weights.sum() + mixed.flight.mass.sum()
        assert after + mixed.lost_mass == pytest.approx(mixed.scale * before, rel=1e-12, abs=1e-12)
        if it.trace.settings.on_loss == "kept" and seen[round_.who.here].sum() == seen.sum() and not mixed.dropped:
            assert mixed.lost_mass == 0
        assert (mixed.weights[round_.who.active] > 0).all()
        assert mixed.late + mixed.lost <= mixed.sent


@pytest.mark.parametrize("rule", RULES)
def test_without_faults_a_round_is_the_rule(rule):
    graph = nx.random_regular_graph(3, 12, seed=4)
    graph.remove_edge(*next(iter(graph.edges)))
    it = course(graph, rule=rule, seed=5, leave_probability=1e-9)
    for t in range(3):
        matrix = it.step().mixed.matrices[0]
        expected = random_matching(graph, 5, t) if rule == "random-matching" else mixing_matrix(graph, rule)
        assert np.array_equal(matrix.toarray(), expected.toarray())
        assert matrix.has_sorted_indices


@given(courses(weighted=False))
@settings(max_examples=40, deadline=None)
def test_a_balanced_round_is_the_rule_on_the_working_links_of_those_who_take_part(it):
    for t in range(6):
        round_ = it.step()
        active = round_.who.active
        if not active.any():
            assert np.array_equal(round_.mixed.matrices[0].toarray(), np.eye(len(active)))
            continue
        working = graph_of(round_.edges, len(active))
        matching = it.trace.settings.gossip == "pairwise" or it.rule == "random-matching"
        rule = random_matching(working, it.seed, t, active) if matching else mixing_matrix(working, it.rule, active)
        assert np.array_equal(round_.mixed.matrices[0].toarray(), rule.toarray() + np.diag(~active).astype(float))
        assert round_.mixed.sent == np.count_nonzero(rule.toarray()) - np.count_nonzero(rule.diagonal())


@pytest.mark.parametrize("rule", RULES[:4])
def test_weights_of_edges_are_those_of_the_rule(rule):
    graph = nx.barabasi_albert_graph(15, 2, seed=3)
    edges = edge_array(graph)
    matrix = mixing_matrix(graph, rule).toarray()
    assert np.array_equal(edge_weights(edges, rule, 15), matrix[edges[:, 0], edges[:, 1]])
    assert edge_weights(edges[:0], rule, 15).shape == (0,)


@pytest.mark.parametrize(
    "keys",
    [
        {"gossip": "push"},
        {"message_loss": 0.3},
        {"gossip": "push", "message_loss": 0.3},
        {"max_delay": 3, "delay_probability": 0.5},
        {"gossip": "push", "max_delay": 4, "slow_share": 0.4, "link_failure": 0.2, "message_loss": 0.2},
        {"gossip": "pairwise", "message_loss": 0.3, "link_failure": 0.3},
        {"gossip": "pairwise", "partitions": [{"begin": 0, "end": 30, "parts": 2}]},
    ],
)
def test_gossip_reaches_the_average_wherever_nothing_is_lost(keys):
    """Column-stochastic, connected over time: every node ends at the plain mean of the starts, star or not."""
    for graph in (nx.star_graph(7), nx.random_regular_graph(4, 12, seed=0)):
        it = course(graph, **keys)
        rows = np.random.default_rng(1).normal(size=(len(graph), 3))
        carried = Carried(rows)
        for _ in range(250):
            round_ = it.step()
            assert round_.mixed.lost_mass == 0
            carried.mix(round_)
        assert carried.rows == pytest.approx(np.tile(rows.mean(axis=0), (len(graph), 1)), abs=1e-4)


def test_what_is_gone_moves_the_average_but_not_the_agreement():
    it = course(nx.random_regular_graph(4, 12, seed=0), message_loss=0.3, on_loss="gone")
    rows = np.random.default_rng(1).normal(size=12)[:, None]
    carried, total, left = Carried(rows), rows.sum(), 12.0
    for _ in range(300):
        before = it.state.weights
        mean = (before * carried.rows[:, 0]).sum() / before.sum()
        round_ = it.step()
        carried.mix(round_)
        left *= 1 - round_.mixed.lost_mass / (round_.mixed.weights.sum() + round_.mixed.lost_mass)
        assert rows.min() <= mean <= rows.max()
    assert np.ptp(carried.rows) < 1e-9
    assert abs(carried.rows.mean() - total / 12) > 1e-3
    assert left < 1e-10  # a fifth of all weight goes in every round, and yet the numbers stay in range:
    assert 0.4 < it.state.weights.mean() < 2.1


def test_an_adoption_moves_no_weighted_mean():
    it = course(
        nx.complete_graph(4), gossip="push",
        events=[{"round": 3, "kind": "leave", "nodes": [2, 3]}, {"round": 6, "kind": "return", "nodes": [2, 3]}],
    )  # fmt: skip
    carried = Carried(np.arange(4.0)[:, None])
    for _ in range(6):
        carried.mix(it.step())
    before = (it.state.weights * carried.rows[:, 0]).sum() / it.state.weights.sum()
    assert it.state.weights[2:].sum() == 0
    round_ = it.step(mixes=False)
    carried.adopt(round_)
    assert round_.who.adopters.tolist() == [2, 3] and round_.who.sources.tolist() == [0, 0]
    assert it.state.weights[0] == it.state.weights[2] == it.state.weights[3] > 0
    assert (it.state.weights * carried.rows[:, 0]).sum() / it.state.weights.sum() == pytest.approx(before, rel=1e-14)


def test_late_messages_of_before_a_release_are_dropped():
    it = course(nx.cycle_graph(4), max_delay=3, delay_probability=0.9)
    for _ in range(3):
        it.step()
    assert len(it.state.flight.mass) > 0
    it.release(mask(4, 0, 1, 2, 3))
    assert len(it.state.flight.mass) == 0 and np.array_equal(it.state.weights, np.ones(4))
    first = it.step().mixed
    assert not any(m.nnz for m in first.matrices[1:])


def test_a_hub_that_rarely_answers_does_not_make_weights_underflow():
    """Leaves push half of what they have in every round, and hear of the hub once in 2,000 rounds."""
    it = course(nx.star_graph(2000), gossip="push")
    for _ in range(700):
        mixed = it.step().mixed
    assert 1e-152 < mixed.weights.min() < 1e-140  # halved on, the smallest would be at 1e-210
    assert np.isfinite(mixed.matrices[0].data).all()


def test_side_by_side_matrices_are_the_same_round_and_tell_who_heard_whom():
    it = course(nx.cycle_graph(6), max_delay=2, delay_probability=0.5, message_loss=0.2)
    carried, past = Carried(np.random.default_rng(0).normal(size=(6, 2))), [np.zeros((6, 2))] * 2
    heard = 0
    for t in range(8):
        mixed = (round_ := it.step()).mixed
        stack = np.concatenate([carried.rows, past[-1], past[-2]])
        past.append(carried.rows.copy())
        carried.mix(round_)
        assert mixed.stacked() @ stack == pytest.approx(carried.rows) and mixed.stacked().has_sorted_indices
        for receiver, sender, age in mixed.heard().tolist():
            assert [min(receiver, sender), max(receiver, sender)] in it._edges.tolist()
            message = np.array([sender]), np.array([receiver]), t - age
            assert not it.trace.lost(*message)[0] and it.trace.delays(*message)[0] == age
        heard += len(mixed.heard())
    under_way = len(it.state.flight.mass)
    lost = sum(it.trace.lost(*np.concatenate([it._edges, it._edges[:, ::-1]]).T, t).sum() for t in range(8))
    assert heard + under_way + lost == 8 * 12
