"""The printed summary: complete, whole at 80 columns, honest about what is not certified."""

from __future__ import annotations

import doctest
import io

import example_run
import pytest
from rich.console import Console

from fedunlearn.privacy.certificate import worth_of
from fedunlearn.results import check_summary, summary_table, words
from fedunlearn.results.words import describe_request, in_order, seconds, times

CONTROLS = {
    "newton_from_initial_model": {
        "seconds": 0.6423, "gradients": 6, "hvps": 44, "messages": 1836, "bytes": 115300800, "network_seconds": 23.83,
        "test_accuracy": 0.84962,
    },
    "newton_from_public_head": {
        "seconds": 112.7, "gradients": 4, "hvps": 2044, "messages": 1836123, "bytes": 106257600,
        "network_seconds": 321.9, "test_accuracy": None,
    },
}  # fmt: skip


def printed(summary: dict, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(check_summary(summary)))
    return console.file.getvalue()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_every_number_a_reader_needs_is_there():
    text = printed(example_run.summary())
    flat = one_line(text)
    for model in ("original", "retrained", "unlearned", "public head"):
        assert model in flat
    for piece in (
        "unlearned 0.838 0.827 ± 0.006 0.811–0.840 0.870 0.842 0.820 0.520",
        "public head 0.702 – – 0.710 0.693 0.704 0.495",
        "client 17 leaves with 158 samples (newton)",
        "ε = 1, δ = 1e-5 sensitivity Δ = 0.0134 noise σ = 0.05 retrain-equivalence valid: every premise was enforced",
        "worth the best observer guesses right in 55.33 % of the cases, where 50 % is a coin",
        "theorem T1",
        "0.0021 to retraining, within the bound 0.0134 (16 % of it) 0.813 before unlearning",
        "unlearning 0.41 s 1,014 3.2 s 3 9",
        "retraining 8.1 s 9,288 31.7 s 6 31",
        "retraining takes 20× 9.2× 9.9× 2× 3.4×",
        "19.9 s in all",
    ):
        assert piece in flat, piece
    for line in example_run.certificate().scope:
        assert line in flat.replace("· ", "")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_is_cut_off_and_lines_stay_short(width):
    summary = example_run.summary()
    summary["requests"][0]["controls"] = CONTROLS
    summary["models"]["a_control_with_a_long_name"] = summary["models"]["unlearned"]
    lines = printed(summary, width).splitlines()
    assert "…" not in "".join(lines)
    assert max(len(line.rstrip()) for line in lines) <= min(width, 100)


def test_controls_stand_below_retraining_with_their_accuracy():
    summary = example_run.summary()
    assert "test accuracy" not in one_line(printed(summary, 100))
    summary["requests"][0]["controls"] = CONTROLS
    text = one_line(printed(summary, 100))
    assert "unlearning 0.41 s 1,014 3.2 s 3 9 0.838" in text
    assert "newton from initial model 0.64 s 1,836 23.8 s 6 44 0.850" in text
    assert "newton from public head 1 min 53 s 1,836,123 5 min 22 s 4 2,044 –" in text


def test_what_was_built_once_stands_apart_with_its_break_even():
    summary = example_run.summary()
    assert "once for all requests" not in printed(summary)
    made = {"what": "public curvature", "seconds": 1.9, "built_in": 1.9, "cached": False, "without": "newton_diagonal"}
    summary["preparation"] = {**made, "break_even": 3}
    text = one_line(printed(summary))
    assert "public curvature: built in 1.9 s, once for all requests; paid for after 3 requests" in text
    assert "(beside 'newton diagonal')" in text
    summary["preparation"] = {**made, "seconds": 0.11, "cached": True, "break_even": None}
    text = one_line(printed(summary))
    assert "public curvature: 0.11 s from the cache, built in 1.9 s, once for all requests" in text
    assert "paid for" not in text


def test_phases_from_the_cache_say_so():
    summary = example_run.summary()
    summary["seconds"]["cached"] = ["train"]
    assert "setup 2.3 s, train 7.9 s (cached), retrain 8.1 s," in one_line(printed(summary))


def test_shares_of_a_joint_training_say_so():
    summary = example_run.summary()
    summary["seconds"]["shared"] = ["train", "retrain"]
    summary["requests"][0]["retrain_cost"]["together"] = 4
    text = one_line(printed(summary))
    assert "train 7.9 s (a share), retrain 8.1 s (a share)," in text and "(share of 4 side by side)" in text


def test_a_release_that_all_nodes_adopted_has_no_spread():
    summary = example_run.summary()
    summary["models"]["unlearned"]["node_test_accuracy"] = {"mean": 0.8376, "std": 0.0, "min": 0.8376, "max": 0.8376}
    assert "unlearned 0.838 0.838 all equal 0.870" in one_line(printed(summary))


def test_an_invalid_certificate_says_which_premise_is_open():
    flat = one_line(printed(example_run.summary(example_run.certificate(extractor="unverified"))))
    assert "NOT valid: public features (assumed)" in flat
    assert " valid: every" not in flat


def test_noise_within_training_is_not_shown_as_noise_of_the_model():
    summary = example_run.summary()
    summary["requests"][0]["certificate"] |= {"kind": "differential-privacy", "sensitivity": 148.0, "sigma": 1866.0}
    flat = one_line(printed(summary))
    assert "in a step of training: sensitivity Δ = 148 noise σ = 1,866 differential-privacy" in flat


def test_further_certificates_stand_below_with_kind_and_worth():
    summary = example_run.summary()
    entry = summary["requests"][0]
    entry["further_certificates"] = [
        {**entry["certificate"], "kind": "message", "mu": None, "epsilon": 118.6, "sensitivity": 97.5, "sigma": 0.01,
         "worth": worth_of(118.6, 1e-5), "valid": False, "scope": ["those who watch: nothing else"]}
    ]  # fmt: skip
    flat = one_line(printed(summary))
    assert "further ε = 119, δ = 1e-5 sensitivity Δ = 97.5 noise σ = 0.01 message NOT valid" in flat
    assert "worth vacuous: the best observer guesses right in 100 %" in flat
    assert "those who watch: nothing else" in flat
    assert flat.index("retrain-equivalence valid") < flat.index("message NOT valid")
    entry |= {"certificate": None, "certificate_reason": "nothing bounds the model"}
    flat = one_line(printed(summary))
    assert "certificate none: nothing bounds the model further ε = 119" in flat


@pytest.mark.parametrize(
    ("accuracy", "limit", "says"),
    [
        (0.8, 0.1066, "the certificate lets the trained start add at most 10.7 points; here it adds 3.8 points costs"),
        (0.6, 0.1066, "at most 10.7 points; here it adds 23.8 points, MORE than that"),
        (None, 0.1066, "test accuracy – from a start that no training touched, 0.838 here the certificate lets"),
        (0.8, None, "test accuracy 0.800 from a start that no training touched, 0.838 here distance"),
    ],
)
def test_a_junk_start_is_compared_with_what_the_certificate_allows(accuracy, limit, says):
    summary = example_run.summary()
    control = {**CONTROLS["newton_from_initial_model"], "test_accuracy": accuracy, "allowed_difference": limit}
    summary["requests"][0]["controls"] = {"junk_start": control}
    assert says.removesuffix(" costs") in one_line(printed(summary, 160))


def test_without_a_junk_start_nothing_is_said_of_one():
    assert "junk" not in printed(example_run.summary())


def test_a_distance_is_held_against_claims_about_retraining_only():
    summary = example_run.summary()
    summary["requests"][0]["certificate"]["kind"] = "transcript"
    summary["requests"][0]["distance_to_retrained"] = 0.5
    flat = one_line(printed(summary))
    assert "0.5 to retraining, which the certificate does not bound" in flat and "ABOVE" not in flat


def test_a_broken_bound_cannot_be_overlooked():
    summary = example_run.summary()
    summary["requests"][0]["distance_to_retrained"] = 0.5
    assert "0.5 to retraining, ABOVE the bound 0.0134" in one_line(printed(summary))


def test_no_certificate_gives_the_reason():
    summary = example_run.summary()
    summary["requests"][0] |= {"certificate": None, "certificate_reason": "fine-tuning certifies nothing"}
    assert "certificate none: fine-tuning certifies nothing" in one_line(printed(summary))


def test_missing_measurements_are_dashes():
    summary = example_run.summary()
    summary["models"]["original"] |= {"never_member_accuracy": None, "membership_auc_forget_vs_test": None}
    summary["requests"][0] |= {"retrain_cost": None, "distance_to_retrained": None}
    text = printed(summary)
    assert "0.887 – –" in one_line(text)
    assert "retraining" not in text and "bound" not in text


def test_several_requests_are_numbered():
    summary = example_run.summary()
    summary["requests"] *= 2
    text = printed(summary)
    assert "Request 1: client 17" in text and "Request 2: client 17" in text


def test_names_are_never_read_as_markup():
    summary = example_run.summary()
    summary["name"] = "[bold]x[/bold]"
    summary["models"]["[red]y"] = summary["models"]["public_head"]
    text = printed(summary)
    assert "[bold]x[/bold]" in text and "[red]y" in text


def test_the_examples_in_docstrings_are_true():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("cost", "other", "says"),
    [(1, 9.24, "9.2×"), (1, 1234.5, "1,234×"), (3, 2, "0.67×"), (1, 0, "0×"), (0, 0, "–"), (0, 2, "∞"), (None, 1, "–")],
)
def test_how_many_times(cost, other, says):
    assert times(cost, other) == says


@pytest.mark.parametrize(
    ("value", "says"), [(0.0, "0 ms"), (0.5, "0.50 s"), (0.9999, "1.0 s"), (59.96, "60.0 s"), (3599.9, "1 h 0 min")]
)
def test_durations_in_words(value, says):
    assert seconds(value) == says


def test_requests_in_words():
    assert describe_request({"level": "sample", "client": 3, "samples": 12}) == "client 3 deletes 12 samples"
    assert describe_request({"level": "class", "label": 7, "samples": 1200}) == "class 7 goes everywhere: 1,200 samples"
    assert describe_request({"level": "client", "client": 3}) == "client 3 leaves"
    assert describe_request({"text": "as it says"}) == "as it says"


def test_models_come_in_the_same_order_everywhere():
    assert in_order(["public_head", "unlearned", "a", "original"]) == ["original", "unlearned", "public_head", "a"]


def test_a_run_that_was_taken_up_again_says_where():
    assert "resumed" not in printed(example_run.summary())
    once = printed({**example_run.summary(), "resumed": ["round 12 of 40 of 'train'"]})
    assert "resumed at round 12 of 40 of 'train'" in one_line(once)
    twice = printed({**example_run.summary(), "resumed": ["the beginning", "the answer to request 0"]})
    assert "resumed 2 times, last at the answer to request 0" in one_line(twice)
