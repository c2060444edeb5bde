"""Hosts on one machine read each other's border rows: the same bits, fewer bytes, and nothing is taken on trust."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.network import Network, Reply, Request, RuntimeSettings, Session, TrainingSettings, train
from fedunlearn.network.borders import TRAVELS, digest_of, find_border, share_borders
from fedunlearn.network.inline import InlineTransport
from fedunlearn.topology import remove_vertex
from tests.worlds import image_data, model_for, ring_network

DATA = image_data(clients=9, sizes=(4, 9))
RECIPE = TrainingSettings(rounds=3, batch=5, lr=0.3, momentum=0.5)
GRAPH = nx.convert_node_labels_to_integers(nx.circulant_graph(9, [1, 3]))


class Listening(InlineTransport):
    """Notes the operations of every message, and counts the rows that travel."""

    def __init__(self, num_hosts: int, places: Sequence[str], *, immediate: bool = False) -> None:
        super().__init__(num_hosts, immediate=immediate, places=places)
        self.heard: list[list[list[str]]] = []
        self.rows = 0

    def exchange(self, requests: Sequence[Request | None]) -> list[Reply | None]:
        asked = [() if request is None else (*request.before, request) for request in requests]
        self.heard.append([[each.op for each in host] for host in asked])
        self.rows += sum(len(each.arrays["halo"]) for host in asked for each in host if "halo" in each.arrays)
        return super().exchange(requests)


def opened(places: Sequence[str], **options: Any) -> tuple[Session, Listening]:
    transport = Listening(len(places), places, **options)
    model, features = model_for(DATA)
    runtime = RuntimeSettings(hosts=len(places), workers=0)
    return Session(transport, DATA, model, features, seed=5, runtime=runtime), transport


def story(session: Session, mixing: Any) -> list[np.ndarray]:
    """Two populations learn and mix, one loses a vertex, and what is left behind is wiped between rounds."""
    network = Network(session, "main", GRAPH, mixing, session.model.initial(0), momentum=True)
    other = Network(session, "other", nx.cycle_graph(9), mixing, session.model.initial(1))
    train(network, RECIPE, last=2)
    other.mix(2)
    network.mix(1, round_=7)
    network.leave(4, remove_vertex(network.graph, 4, "path", network.alive))
    network.erase(DATA.train_rows(2)[:2])
    network.mix(1, round_=8)
    network.wipe()
    train(network, RECIPE, first=2)
    other.mix(1, round_=9)
    first = other.save()["theta"]
    other.drop()
    again = Network(session, "other", GRAPH, mixing, session.model.initial(2))
    again.mix(1)
    return [*network.save().values(), network.mean(), first, again.save()["theta"]]


@pytest.fixture(scope="module")
def expected() -> dict[str, list[np.ndarray]]:
    found = {}
    for mixing in ("metropolis", "random-matching", "exact-average"):
        session, _ = opened([""], immediate=True)
        with session:
            found[mixing] = story(session, mixing)
    return found


@pytest.mark.parametrize("mixing", ["metropolis", "random-matching", "exact-average"])
@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("places", ["aa", "aaa", "aab", "abab", ["a", "", "a"], ["", ""]])
def test_the_same_bits_wherever_hosts_are(
    places: Sequence[str], immediate: bool, mixing: str, expected: dict[str, list[np.ndarray]]
) -> None:
    session, _ = opened(places, immediate=immediate)
    with session:
        found = story(session, mixing)
    for one, other in zip(expected[mixing], found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_travels_between_hosts_on_one_machine() -> None:
    rows, shared = {}, {}
    for places in ("ab", "aa", "aab"):
        session, transport = opened(places)
        with session:
            network = Network(session, "main", GRAPH, "metropolis", session.model.initial(0), momentum=True)
            train(network, RECIPE)
            network.mean()
            rows[places], shared[places] = transport.rows, session.traffic["bytes_shared"]
            assert len(transport.heard) == 1 + 3 + 1 and session.traffic["messages"] == len(places) * 5
    assert (rows["aa"], shared["ab"]) == (0, 0) and rows["ab"] > 0
    assert shared["aa"] == 4 * network.dim * rows["ab"]
    assert rows["aab"] > 0 and shared["aab"] > 0


@given(st.data())
def test_every_foreign_row_travels_or_lies_where_the_plan_says(data: st.DataObject) -> None:
    hosts = data.draw(st.integers(1, 5))
    host_of = np.array(data.draw(st.lists(st.integers(0, hosts - 1), min_size=hosts, max_size=12)))
    size = len(host_of)
    places = data.draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=hosts, max_size=hosts))
    outside = [
        np.flatnonzero((host_of != h) & data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        for h in range(hosts)
    ]
    borders = share_borders(outside, host_of, places)
    for host, (border, needed) in enumerate(zip(borders, outside)):
        assert (host_of[border.nodes] == host).all() and (np.diff(border.nodes) > 0).all()
        for vertex, holder, at in zip(needed, border.holders, border.at):
            beside = places[host] != "" and places[host] == places[host_of[vertex]]
            assert holder == (host_of[vertex] if beside else TRAVELS)
            assert not beside or borders[holder].nodes[at] == vertex
    for host, border in enumerate(borders):
        wanted = {v for needed, b in zip(outside, borders) for v, h in zip(needed, b.holders) if h == host}
        assert set(border.nodes) == wanted, "no row lies in a border that nobody reads"


@pytest.mark.parametrize(("places", "wanted"), [("aab", 5), ("abab", 5), ("aaab", 5)])
def test_a_round_is_one_message_wherever_hosts_are(places: str, wanted: int) -> None:
    session, transport = opened(places)
    with session:
        network = Network(session, "main", GRAPH, "metropolis", session.model.initial(0), momentum=True)
        train(network, RECIPE)
        network.mean()
        assert len(transport.heard) == wanted


def test_where_no_row_crosses_nobody_is_asked_for_a_border() -> None:
    session, transport = opened("aa")
    with session:
        halves = [members.tolist() for members in session.members]
        apart = nx.compose(*(nx.path_graph(half) for half in halves))
        network = Network(session, "main", apart, "metropolis", session.model.initial(0))
        transport.heard.clear()
        network.mix(3)
        network.mean()
        assert len(transport.heard) == 1 and not any("border" in ops for host in transport.heard for ops in host)


def test_many_rounds_in_one_message_need_no_row_of_another_host() -> None:
    session, _ = opened("aa")
    with session:
        network = ring_network(session, momentum=True)
        train(network, RECIPE, last=1)
        work = {"program": "fedunlearn.network.local_training:train", "only": None, "grain": 8, "population": "main"}
        recipe = {"training": RECIPE.model_dump(), "form": "loop", "width": 5}
        with pytest.raises(UserError, match="population 'main' cannot be mixed on this host alone"):
            session.ask("rounds", {"rounds": [1, 2], "work": [{**work, "params": recipe, "mix": True}]})


# --- what a host reads is checked ------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Session, Network]]:
    """Two hosts at one place that are about to mix: the next message begins with it."""
    session, _ = opened("aa")
    with session:
        network = ring_network(session)
        network.mix(1)
        yield session, network


def border(session: Session, host: int) -> np.ndarray:
    store = session.transport._hosts[host].store  # type: ignore[attr-defined]
    return store["border-1.main"]


def refuses(session: Session, network: Network, sentence: str) -> None:
    rows = [host.store["theta.main"].copy() for host in session.transport._hosts]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=sentence):
        network.mean()
    for host, before in zip(session.transport._hosts, rows):  # type: ignore[attr-defined]
        np.testing.assert_array_equal(host.store["theta.main"], before)


def test_other_rows_than_were_told_of_are_refused(pair: tuple[Session, Network]) -> None:
    border(pair[0], 1)[0, 0] += 1
    refuses(*pair, "malformed 'mix': host 1 shares other rows than the conductor was told of")


def test_rows_that_are_gone_are_refused(pair: tuple[Session, Network]) -> None:
    pair[0].transport._hosts[1].store.drop("border-1.main")  # type: ignore[attr-defined]
    refuses(*pair, "host 1 is not on this machine, or does not share the rows that are asked of it")


def test_a_file_that_is_no_array_is_refused(pair: tuple[Session, Network]) -> None:
    (pair[0].transport._hosts[1].store.folder / "border-1.main.npy").write_bytes(b"\x80\x04something pickled")  # type: ignore[attr-defined]
    refuses(*pair, "host 1 is not on this machine, or does not share the rows")


def test_rows_that_are_not_finite_are_refused() -> None:
    session, _ = opened("aa")
    with session:
        network = ring_network(session)
        session.flush()
        session.transport._hosts[1].store["theta.main"][...] = np.inf  # type: ignore[attr-defined]
        network.mix(1)
        with pytest.raises(UserError, match="host 1 shares a row that holds a value that is not a finite number"):
            network.mean()


def test_a_training_that_goes_to_infinity_is_told_as_such() -> None:
    session, _ = opened("aa")
    with session:
        network = ring_network(session, momentum=True)
        network.write(np.full(network.dim, 3e38, np.float32), nodes=[7])
        with pytest.raises(UserError, match="node 7 holds NaN or infinity after round 1 "):
            train(network, RECIPE)


def test_nothing_is_overwritten_that_is_still_to_be_read() -> None:
    """Who wipes, leaves, drops or makes anew does not do so in the message in which another host reads."""
    session, transport = opened("aa")
    with session:
        network, other = ring_network(session), ring_network(session, "other")
        without = remove_vertex(network.graph, 3, "path", network.alive)
        acts = (network.wipe, lambda: network.leave(3, without), other.drop, lambda: ring_network(session, "x"))
        for act in acts:
            network.mix(1)
            transport.heard.clear()
            act()
            network.mean()
            first, second = transport.heard
            assert [ops[:1] for ops in first] == [["mix"]] * 2 and "mix" not in second[0] + second[1]


def test_borders_are_wiped() -> None:
    session, transport = opened("aa")
    with session:
        network = ring_network(session)
        network.mix(3)
        network.wipe()
        session.flush()
        for host in transport._hosts:
            left = [path.stem for path in host.store.folder.glob("border-*.npy")]
            assert sorted(left) == ["border-0.main", "border-1.main"]
            assert all(np.isnan(host.store[name]).all() for name in left)


def test_borders_of_other_kinds_are_none(tmp_path: Any) -> None:
    assert find_border(None, "border-0.main") is None and find_border(tmp_path, "border-0.main") is None
    for values in (np.zeros((2, 3)), np.zeros(3, np.float32), np.array([[None]], object)):
        np.save(tmp_path / "border-0.main.npy", values)
        assert find_border(tmp_path, "border-0.main") is None
    np.save(tmp_path / "border-0.main.npy", np.ones((2, 3), np.float32))
    found = find_border(tmp_path, "border-0.main")
    assert found is not None and digest_of(found) == digest_of(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError):
        found[0] = 3  # another host's rows are read only
