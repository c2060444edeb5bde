"""The policy: which requests are refused, by which rule, and which are answered together."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedunlearn.config import load_experiment
from fedunlearn.errors import UserError
from fedunlearn.requests import RequestPolicy, RequestSettings, decide_requests, resolve_requests
from fedunlearn.requests.docket import RULES
from tests.worlds import table_data

CLIENTS = 5
TABLE = table_data(clients=CLIENTS)
SIZES = [len(TABLE.train_rows(c)) for c in range(CLIENTS)]
REFUSE = {"ownership": "refuse", "unknown": "refuse", "duplicates": "refuse", "broken": "refuse", "exhausted": "refuse"}


def decide(*asked, dataset=TABLE, seed=0, graph=None, repair="refuse", **policy):
    requests = [RequestSettings(**request) for request in asked]
    return decide_requests(requests, dataset, seed, RequestPolicy(**policy), graph=graph, repair=repair)


def sample(client, *places, **more):
    return {"level": "sample", "client": client, "samples": places, **more}


def draw(client, count, **more):
    return {"level": "sample", "client": client, "count": count, **more}


def leave(client, **more):
    return {"level": "client", "client": client, **more}


def broken_rules(decisions):
    return [(refusal.number, refusal.rule) for refusal in decisions.refused]


def content(decisions):
    """Return what is answered, without the numbers that requests had in the experiment."""
    return [(r.number, r.level, r.node, r.label, r.sample_ids.tolist(), r.leaves, r.askers) for r in decisions.answered]


# --- who asks ---------------------------------------------------------------------------------------------------------


def test_the_owner_asks_unless_another_one_is_named():
    owner, operator, everywhere = decide(sample(1, 0), leave(2, by="operator"), {"level": "class", "label": 0}).answered
    assert owner.askers == (1,) and operator.askers == (None,) and everywhere.askers == (None,)


@pytest.mark.parametrize("request_", [leave(2, by=1), sample(2, 0, by=1), {"level": "class", "label": 0, "by": 1}])
def test_nobody_but_the_operator_asks_for_what_is_not_its_own(request_):
    with pytest.raises(UserError, match=r"requests\.0\.by = 1 asks for what is not its own: .+ \(allowed"):
        decide(request_)
    found = decide(request_, ownership="refuse")
    assert not found.answered and broken_rules(found) == [(0, "ownership")] and found.refused[0].by == 1
    (answer,) = decide(request_, ownership="off").answered
    assert len(answer.sample_ids) and answer.askers == (1,)


def test_a_stranger_is_not_told_whether_a_sample_exists_or_is_deleted():
    asked = [sample(2, 0), sample(2, 0, by=1), sample(2, 10_000, by=1), leave(77, by=1), sample(2, 1, by=1)]
    found = decide(*asked, **REFUSE)
    assert broken_rules(found) == [(number, "ownership") for number in (1, 2, 3, 4)]
    told = {refusal.reason.partition(" asks")[2] for refusal in found.refused if refusal.client == 2}
    assert len(told) == 1


def test_an_asker_who_does_not_exist_is_unknown():
    with pytest.raises(UserError, match=r"requests\.0\.by = 5 does not exist \(allowed: 0 to 4, or 'operator'\)"):
        decide(leave(2, by=5))
    assert broken_rules(decide(leave(2, by=5), **REFUSE)) == [(0, "unknown")]


@pytest.mark.parametrize("by", [-1, "client", 1.5])
def test_an_asker_is_a_client_or_the_operator(by):
    with pytest.raises(ValidationError):
        RequestSettings(**leave(2, by=by))


# --- one rule at a time -----------------------------------------------------------------------------------------------

CASES = {
    "an unknown client": ([leave(9)], {}, [(0, "unknown")]),
    "an unknown sample": ([sample(0, 10_000)], {}, [(0, "unknown")]),
    "an unknown class": ([{"level": "class", "label": "z"}], {}, [(0, "unknown")]),
    "more samples than there ever were": ([draw(0, SIZES[0] + 1)], {}, [(0, "unknown")]),
    "a sample twice": ([sample(0, 1), sample(0, 1, 2)], {}, [(1, "duplicates")]),
    "a client twice": ([leave(0), leave(0)], {}, [(1, "duplicates")]),
    "more samples than are left": ([sample(0, 1), draw(0, SIZES[0])], {}, [(1, "duplicates")]),
    "a class twice": ([{"level": "class", "label": 1}] * 2, {}, [(1, "duplicates")]),
    "the last client": ([leave(c) for c in range(CLIENTS)], {}, [(4, "broken")]),
    "a third request": ([draw(0, 1)] * 3 + [draw(1, 1)], {"max_requests": 2}, [(2, "excessive")]),
    "too soon": (
        [draw(0, 1, at=0), draw(0, 1, at=2), draw(1, 1, at=2), draw(0, 1, at=3)],
        {"min_interval": 3.0},
        [(1, "excessive")],
    ),
    "the operator is not limited": (
        [leave(0, by="operator"), leave(1, by="operator")],
        {"max_requests": 1, "min_interval": 9.0},
        [],
    ),
    "too large a share": (
        [leave(0), leave(1), draw(2, 1)],
        {"max_share": (SIZES[0] + 1) / sum(SIZES)},
        [(1, "exhausted")],
    ),
    "a client emptied": ([draw(0, SIZES[0]), leave(0)], {"emptied": "refuse"}, [(0, "emptied")]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_request_that_breaks_a_rule_is_refused_and_the_others_are_answered(case):
    asked, policy, refused = CASES[case]
    found = decide(*asked, **{**REFUSE, **policy})
    assert broken_rules(found) == refused
    numbers = [number for answer in found.answered for number in answer.asked]
    assert sorted(numbers + [number for number, _ in refused]) == list(range(len(asked)))
    for refusal in found.refused:
        assert refusal.reason.startswith(f"requests.{refusal.number}") and "\n" not in refusal.reason


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][2]])
def test_the_same_rule_with_stop_ends_the_run_with_the_same_sentence(case):
    asked, policy, ((_, rule),) = CASES[case]
    reason = decide(*asked, **{**REFUSE, **policy}).refused[0].reason
    with pytest.raises(UserError) as error:
        decide(*asked, **{**REFUSE, **policy, rule: "stop"})
    assert str(error.value) == reason


def test_the_limit_on_a_share_is_reached_exactly():
    total = sum(SIZES)
    for count in range(1, 8):
        found = decide(*[draw(4, 1)] * 8, max_share=count / total, exhausted="refuse")
        assert sum(len(answer.sample_ids) for answer in found.answered) == count


def test_samples_asked_for_twice_can_be_left_out():
    found = decide(sample(0, 1, 2), sample(0, 2, 3), sample(0, 1, 3), duplicates="ignore")
    mine = TABLE.train_rows(0)
    assert [answer.sample_ids.tolist() for answer in found.answered] == [mine[[1, 2]].tolist(), [mine[3]]]
    assert broken_rules(found) == [(2, "duplicates")]


def test_a_request_that_would_tear_the_graph_is_refused_where_nothing_repairs_it():
    path = nx.path_graph(CLIENTS)
    with pytest.raises(UserError, match=r"requests\.0: without client 2 the graph falls into 2 parts"):
        decide(leave(2), graph=path)
    found = decide(leave(2), leave(0), graph=path, broken="refuse")
    assert broken_rules(found) == [(0, "broken")] and [answer.leaves for answer in found.answered] == [(0,)]
    for repair in ("path", "relay"):
        assert not decide(leave(2), graph=path, repair=repair).refused


def test_departures_are_rehearsed_one_after_the_other():
    """In a path of five, 1 tears the graph while 0 is there, and not any more when 0 has left."""
    path = nx.path_graph(CLIENTS)
    assert broken_rules(decide(leave(1), leave(0), graph=path, broken="refuse")) == [(0, "broken")]
    assert not decide(leave(0), leave(1), graph=path, broken="refuse").refused
    (answer,) = decide(leave(4), leave(3), graph=path, window=1.0).answered
    assert answer.leaves == (4, 3)  # in ascending order the graph would fall apart in between


def test_a_class_of_which_nothing_is_left_is_noted():
    assert decide(leave(0)).notes == ()
    assert decide({"level": "class", "label": 1}).notes == ("no training sample of class b is left",)


# --- answered together ------------------------------------------------------------------------------------------------


def test_requests_of_a_window_are_answered_as_one():
    found = decide(
        draw(0, 2, at=0.0), draw(1, 1, at=0.9), leave(2, at=1.0), draw(3, 1, at=1.9), draw(3, 2, at=2.0), window=1.0
    )  # fmt: skip
    assert [answer.asked for answer in found.answered] == [(0, 1), (2, 3), (4,)]
    assert [answer.number for answer in found.answered] == [0, 1, 2]
    assert [answer.leaves for answer in found.answered] == [(), (2,), ()]
    assert found.answered[0].describe() == "2 requests together: 3 samples"
    assert found.answered[1].describe() == f"2 requests together: {SIZES[2] + 1} samples; 2 leaves"


def test_a_refused_request_does_not_cut_a_window():
    found = decide(draw(0, 2), leave(9), draw(1, 1), window=1.0, **REFUSE)
    assert [answer.asked for answer in found.answered] == [(0, 2)]
    late = decide(leave(9), draw(1, 1), draw(2, 1), **REFUSE)
    assert [(answer.number, answer.where) for answer in late.answered] == [(0, "requests.1"), (1, "requests.2")]


def test_the_level_of_an_answer_to_several_requests_is_one_that_no_theorem_reads_too_mildly():
    def of(*asked):
        (answer,) = decide(*asked, window=1.0).answered
        return answer.level, answer.node

    assert of(draw(0, 1), draw(0, 1)) == ("sample", 0)
    assert of(draw(0, 1), leave(0)) == ("client", 0)
    assert of(draw(0, 1), draw(1, 1)) == ("class", None)
    assert of(leave(0), leave(1)) == ("class", None)
    assert of(leave(0), {"level": "class", "label": 1}) == ("class", None)


def test_a_window_begins_with_the_day_that_is_written():
    """0.3 // 0.1 is 2 in binary, though day 0.3 begins the fourth window."""
    found = decide(draw(0, 1, at=0.2), draw(0, 1, at=0.25), draw(0, 1, at=0.3), draw(0, 1, at=0.39), window=0.1)
    assert [answer.asked for answer in found.answered] == [(0, 1), (2, 3)]
    assert len(decide(draw(0, 1, at=1e300), draw(0, 1, at=1e308), window=1e-300).answered) == 1


def test_days_do_not_go_backwards():
    with pytest.raises(UserError, match=r"requests\.1\.at = 1 is before the request above it \(allowed: from 2 on\)"):
        decide(draw(0, 1, at=2), draw(0, 1, at=1))


# --- laws -------------------------------------------------------------------------------------------------------------

ASKED = st.lists(
    st.one_of(
        st.builds(leave, st.integers(0, 6), by=st.sampled_from([None, "operator", 0, 1, 6])),
        st.builds(draw, st.integers(0, 4), st.integers(1, 12), by=st.sampled_from([None, 0, 1])),
        st.builds(sample, st.integers(0, 4), st.integers(0, 21), st.integers(0, 21)),
        st.builds(lambda label: {"level": "class", "label": label}, st.integers(0, 3)),
    ),
    max_size=8,
)
POLICY = st.fixed_dictionaries(
    {
        "ownership": st.sampled_from(["off", "refuse"]), "duplicates": st.sampled_from(["ignore", "refuse"]),
        "emptied": st.sampled_from(["answer", "refuse"]), "max_requests": st.sampled_from([None, 1, 2]),
        "min_interval": st.sampled_from([0.0, 1.0]), "max_share": st.sampled_from([None, 0.2, 0.6]),
        "window": st.sampled_from([0.0, 1.0, 2.5]),
    },
)  # fmt: skip
DAYS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=8, max_size=8)


def dated(asked, steps):
    return [{**request, "at": float(day)} for request, day in zip(asked, np.cumsum(steps), strict=False)]


@given(ASKED, POLICY, DAYS, st.sampled_from([None, "path", "refuse"]))
@settings(max_examples=150, deadline=None)
def test_a_refused_request_changes_nothing(asked, policy, steps, repair):
    asked = dated(asked, steps)
    graph = None if repair is None else nx.cycle_graph(CLIENTS)
    more = {"graph": graph, "repair": repair or "refuse", **REFUSE, **policy}
    found = decide(*asked, **more)
    refused = {refusal.number for refusal in found.refused}
    kept = [request for number, request in enumerate(asked) if number not in refused]
    again = decide(*kept, **more)
    assert content(again) == content(found) and not again.refused and again.notes == found.notes


@given(ASKED, POLICY, DAYS)
@settings(max_examples=100, deadline=None)
def test_what_is_answered_keeps_to_the_limits(asked, policy, steps):
    asked = dated(asked, steps)
    found = decide(*asked, **{**REFUSE, **policy})
    numbers = [number for answer in found.answered for number in answer.asked]
    assert sorted(numbers + [refusal.number for refusal in found.refused]) == list(range(len(asked)))
    ids = [i for answer in found.answered for i in answer.sample_ids.tolist()]
    assert len(ids) == len(set(ids)) and len(ids) < sum(SIZES)
    if policy["max_share"] is not None:
        assert len(ids) <= policy["max_share"] * sum(SIZES) + 1e-9
    by_client: dict[int, list[float]] = {}
    for number in numbers:
        request = RequestSettings(**asked[number])
        if request.asker is not None:
            by_client.setdefault(request.asker, []).append(request.at)
        if policy["ownership"] == "refuse":
            assert request.asker in (None, request.client)
    for days in by_client.values():
        assert policy["max_requests"] is None or len(days) <= policy["max_requests"]
        assert all(later - earlier >= policy["min_interval"] for earlier, later in pairwise(days))


@given(ASKED, POLICY, DAYS)
@settings(max_examples=100, deadline=None)
def test_a_window_is_the_union_of_what_it_answers_one_by_one(asked, policy, steps):
    asked = dated(asked, steps)
    together = decide(*asked, **{**REFUSE, **policy})
    alone = decide(*asked, **{**REFUSE, **policy, "window": 0.0})
    assert together.refused == alone.refused
    single = {answer.asked[0]: answer for answer in alone.answered}
    assert all(len(answer.asked) == 1 for answer in alone.answered)
    for answer in together.answered:
        parts = [single[number] for number in answer.asked]
        assert answer.sample_ids.tolist() == sorted(i for part in parts for i in part.sample_ids.tolist())
        assert answer.leaves == tuple(v for part in parts for v in part.leaves)
        if policy["window"]:
            assert len({asked[number]["at"] // policy["window"] for number in answer.asked}) == 1
    assert [n for answer in together.answered for n in answer.asked] == sorted(single)


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 300), st.integers(-1, 1)), min_size=2, max_size=6))
@settings(max_examples=200, deadline=None)
def test_windows_are_those_of_the_decimals_that_are_written(window, places):
    """Days lie at a beginning of a window, or a hundredth of a day before or after one."""
    days = sorted(window * k + off for k, off in places)
    found = decide(*[draw(0, 1, at=day / 100, by="operator") for day in days], window=window / 100)
    windows = [{days[number] // window for number in answer.asked} for answer in found.answered]
    assert all(len(places) == 1 for places in windows) and len(windows) == len({day // window for day in days})


@given(st.integers(0, 100_000), st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_an_interval_is_that_of_the_decimals_that_are_written(day, later, least):
    asked = [draw(0, 1, at=day / 100), draw(0, 1, at=(day + later) / 100)]
    found = decide(*asked, min_interval=least / 100)
    assert broken_rules(found) == ([(1, "excessive")] if later < least else [])


@given(ASKED, POLICY, DAYS, st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_decisions_do_not_depend_on_what_is_in_a_sample(asked, policy, steps, seed):
    """A class request names its samples by their labels; all else is blind to inputs and labels."""
    asked = dated([request for request in asked if request["level"] != "class"], steps)
    rng = np.random.default_rng(seed)
    other = dataclasses.replace(
        TABLE, inputs=rng.normal(size=TABLE.inputs.shape).astype(np.float32),
        labels=rng.integers(0, TABLE.num_classes, len(TABLE.labels)),
    )  # fmt: skip
    found, blind = (decide(*asked, dataset=d, **{**REFUSE, **policy}) for d in (TABLE, other))
    assert content(found) == content(blind) and found.refused == blind.refused


@given(ASKED)
@settings(max_examples=80, deadline=None)
def test_with_stop_the_first_refusal_is_the_error(asked):
    """What the default policy says is what a policy that refuses would have written down first."""
    requests = [RequestSettings(**request) for request in asked]
    refused = decide(*asked, **REFUSE).refused
    if refused:
        with pytest.raises(UserError) as error:
            resolve_requests(requests, TABLE, 0)
        assert str(error.value) == refused[0].reason
    else:
        assert len(resolve_requests(requests, TABLE, 0)) == len(asked)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_every_rule_has_an_action_of_its_own():
    assert set(RULES) < set(RequestPolicy.model_fields)
    assert [key for key in RequestPolicy.model_fields if key in RULES] == list(RULES)


def test_a_request_for_no_sample_is_a_mistake(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('[[requests]]\nlevel = "sample"\nclient = 3\nsamples = []\n')
    with pytest.raises(UserError, match=r"requests\.0\.samples = \[\] must name at least one sample$"):
        load_experiment(file)


def test_a_policy_is_a_table_of_the_experiment(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text('[policy]\nwindow = 7\nownership = "refuse"\n[[requests]]\nlevel = "client"\nclient = 3\nby = 1\n')
    experiment = load_experiment(file)
    assert experiment.policy == RequestPolicy(window=7.0, ownership="refuse") and experiment.requests[0].asker == 1
    with pytest.raises(UserError, match=r"policy\.ownership = \"strict\" must be one of off, refuse, stop"):
        load_experiment(file, ["policy.ownership=strict"])
    with pytest.raises(UserError, match=r"policy\.max_share = 2 must be a number greater than 0 and at most 1"):
        load_experiment(file, ["policy.max_share=2"])
    with pytest.raises(UserError, match=r"requests\.0\.by"):
        load_experiment(file, ["requests.0.by=-1"])
