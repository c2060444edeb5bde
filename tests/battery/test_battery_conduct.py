"""The whole battery on small finished runs: what each level has, that it repeats, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedunlearn.battery.conduct import Evaluation, evaluate, mia_of, refuse_unresolved, with_rounds
from fedunlearn.battery.report import report, write_evaluation
from fedunlearn.battery.settings import BatterySettings
from fedunlearn.errors import UserError
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal
from fedunlearn.results.reading import read_run
from tests.small_runs import THREE_REQUESTS, run

DATA = {"clients": 9, "train_clients": "0-5", "never_members": "6-8"}
FINETUNE: dict[str, Any] = {"data": DATA, "unlearning": {"method": "finetune", "rounds": 1}}
QUICK = BatterySettings(level="quick", relearn_steps=5)
FULL = BatterySettings(level="full", shadows=6, relearn_steps=5, recovery_rounds=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small finished run whose nodes keep models of their own."""
    folder = tmp_path_factory.mktemp("conduct") / "run"
    run(folder, **FINETUNE)
    return folder


@pytest.fixture(scope="module")
def full(made: Path) -> tuple[Evaluation, list[tuple[str, int, int]]]:
    """Return the full battery of that run, and what it told on the way."""
    told: list[tuple[str, int, int]] = []
    return evaluate(made, FULL, progress=lambda *said: told.append(said)), told


def lines(found: Found) -> dict[str, Measure]:
    """Return the lines by name."""
    return {measure.name: measure for measure in found.measures}


def sections(found: Found) -> set[str]:
    """Return the sections that have a line."""
    return {measure.section for measure in found.measures}


def test_each_level_has_all_of_the_level_below(made: Path, full: tuple[Evaluation, Any]) -> None:
    quick = evaluate(made, QUICK)
    standard = evaluate(made, BatterySettings(level="standard", relearn_steps=5, recovery_rounds=2))
    whole = full[0]
    assert sections(quick.found) == {"membership", "distance", "relearning", "side effects"}
    assert sections(standard.found) == sections(quick.found) | {"network", "backdoor"}
    assert sections(whole.found) == sections(standard.found) | {"shadows", "populations"}
    assert set(lines(quick.found)) <= set(lines(standard.found)) <= set(lines(whole.found))
    assert quick.retold is None
    assert standard.retold == whole.retold == {"same": True, "largest_difference": 0.0, "reason": None}
    # with a control there is one on every line that a control can have
    assert all(measure.control is None for measure in quick.found.measures)
    with_control = lines(whole.found)["loss_auc_forget_below_retrained"]
    assert with_control.control is not None
    # what needs no control is the same number at every level
    for name, measure in lines(quick.found).items():
        if name.startswith(("loss_", "kl_", "accuracy_")):
            assert lines(whole.found)[name].unlearned == measure.unlearned


def test_lines_agree_with_the_runs_own_summary(made: Path, full: tuple[Evaluation, Any]) -> None:
    summary = read_run(made).summary
    found = lines(full[0].found)
    for name in ("original", "unlearned", "retrained"):
        estimate = getattr(found["accuracy_test"], name)
        assert estimate.value == pytest.approx(summary["models"][name]["test_accuracy"])
        area = getattr(found["loss_auc_forget_below_test"], name)
        assert area.value == pytest.approx(summary["models"][name]["membership_auc_forget_vs_test"])
    largest = found["distance_to_retrained_node_largest"]
    assert largest.original is not None
    assert largest.unlearned is not None
    assert largest.original.value == pytest.approx(summary["requests"][0]["distance_before"])
    assert largest.unlearned.value == pytest.approx(summary["requests"][0]["distance_to_retrained"])


def test_the_battery_repeats_itself(made: Path, full: tuple[Evaluation, Any]) -> None:
    again = evaluate(made, FULL)
    assert again.found.measures == full[0].found.measures
    assert again.found.refusals == full[0].found.refusals
    assert again.found.curves == full[0].found.curves


def test_the_whole_is_told_with_its_remaining_time(full: tuple[Evaluation, list[tuple[str, int, int]]]) -> None:
    evaluation, told = full
    whole = [(done, total) for phase, done, total in told if phase == "battery"]
    assert whole[-1][0] == whole[-1][1] >= 1
    assert all(0 <= done <= total for done, total in whole)
    assert {"shadow models", "train", "retrain"} <= {phase for phase, _, _ in told}
    assert list(evaluation.seconds) == [
        "retell", "network", "backdoor", "shadow models", "models", "shadow attacks", "membership of clients",
        "relearning", "rounds",
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["sample", "class", "client", "several"])
def test_every_kind_of_request_gives_a_report_and_figures(level: str, tmp_path: Path) -> None:
    requests = {
        "sample": [{"level": "sample", "client": 1, "count": 5}], "class": [{"level": "class", "label": 3}],
        "client": [{"level": "client", "client": 2}], "several": THREE_REQUESTS,
    }  # fmt: skip
    changes = {**FINETUNE, "requests": requests[level]}
    run(tmp_path / "run", **changes)
    said = report(evaluate(tmp_path / "run", BatterySettings(level="standard", relearn_steps=3, recovery_rounds=1)))
    names = {path.name for path in write_evaluation(tmp_path / "run", said)}
    assert {"evaluation-roc.png", "evaluation-influence.png", "evaluation-relearning.png"} <= names
    assert ("evaluation-reach.png" in names) == (level != "class")
    assert (said["curves"]["network"]["client"] is None) == (level == "class")


def test_trainings_left_in_the_cache_are_told(tmp_path: Path) -> None:
    run(tmp_path / "run", **FINETUNE, runtime={"cache": True})
    found = evaluate(tmp_path / "run", FULL)
    with_forget_set = 1 + FULL.shadows  # the run's own network and the shadow models before their answers
    assert len(found.cached) == with_forget_set
    run(tmp_path / "other", **{**FINETUNE, "requests": [{"level": "client", "client": 4}]})
    assert evaluate(tmp_path / "other", QUICK).cached != found.cached


def test_one_node_alone_has_no_network_to_look_into(tmp_path: Path) -> None:
    run(
        tmp_path / "run", data={"clients": 3, "train_clients": "0", "never_members": "1-2"},
        topology={"generator": "single"}, unlearning={"method": "finetune", "rounds": 1},
        requests=[{"level": "sample", "client": 0, "count": 20}],
    )  # fmt: skip
    found = evaluate(tmp_path / "run", FULL).found
    assert "shadows" in sections(found)
    assert any(refusal.section == "network" for refusal in found.refusals)
    assert all(refusal.reason.count(". ") == 0 for refusal in found.refusals)


def test_without_never_members_the_user_level_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run(tmp_path / "run", data={"clients": 6, "train_clients": "rest"})
    found = evaluate(tmp_path / "run", QUICK).found
    (refusal,) = [refusal for refusal in found.refusals if "user" in refusal.name]
    assert "never-member" in refusal.reason


def test_populations_below_64_models_are_refused(full: tuple[Evaluation, Any]) -> None:
    reasons = {refusal.name: refusal.reason for refusal in full[0].found.refusals}
    for name in ("klom", "forgetting_score"):
        assert "64" in reasons[name]
        assert "--shadows 64" in reasons[name]


def test_a_rate_that_the_samples_cannot_resolve_is_refused_at_the_door(made: Path) -> None:
    settings = BatterySettings(level="quick", false_positive_rates=(1e-4,))
    with pytest.raises(UserError, match=r"false_positive_rates = 0\.0001 needs at least 10000 samples"):
        evaluate(made, settings)
    refuse_unresolved((0.1, 0.01), {"forget": 100, "test": 100})
    with pytest.raises(UserError, match="at least 100 samples in the test set"):
        refuse_unresolved((0.1, 0.01), {"forget": 100, "test": 99})


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_is_strictly_between_zero_and_one(rate: float) -> None:
    with pytest.raises(ValueError, match=r"strictly between 0 and 1|finite number"):
        BatterySettings(false_positive_rates=(rate,))


def test_the_attack_of_the_gap_is_found_by_name() -> None:
    measure = Measure(
        "svc_confidence_forget_called_nonmember", "membership", "", Estimate(0.1), Estimate(0.2), Estimate(0.3)
    )
    assert mia_of(Found((measure,))) == {"original": 0.1, "unlearned": 0.2, "retrained": 0.3}
    assert mia_of(Found()) is None


def test_the_course_over_rounds_joins_the_networks_curves() -> None:
    found = Found(curves={"network": {"client": 1, "rounds": None}})
    assert with_rounds(found, {"round": [1]}).curves["network"] == {"client": 1, "rounds": {"round": [1]}}
    refusal = Refusal("rounds", "network", "it trains itself")
    assert with_rounds(found, refusal).refusals == (refusal,)
    assert found.curves["network"]["rounds"] is None


@pytest.mark.parametrize("phase", ["request 0", "network", "backdoor", "shadow models", "rounds"])
def test_an_interrupted_battery_leaves_no_store_behind(made: Path, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedunlearn.network import inline

    folders: list[Path] = []
    genuine = inline.new_folder
    monkeypatch.setattr(inline, "new_folder", lambda: folders.append(genuine()) or folders[-1])

    def interrupt(said: str, done: int, total: int) -> None:
        if said == phase and done:
            assert any(folder.exists() for folder in folders)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(made, FULL, progress=interrupt)
    assert not any(folder.exists() for folder in folders)


def test_secret_noise_is_no_excuse_where_none_was_drawn(tmp_path: Path) -> None:
    """Fine-tuning releases nothing, so its story told again is the run's, whatever the setting of noise says."""
    standard = BatterySettings(
        level="standard", relearn_steps=5, recovery_rounds=1, backdoor=False, trace_rounds=False
    )  # fmt: skip
    run(tmp_path / "run", **FINETUNE, privacy={"noise": "secret"})
    assert evaluate(tmp_path / "run", standard).retold == {"same": True, "largest_difference": 0.0, "reason": None}
    run(tmp_path / "drawn", data=DATA, privacy={"noise": "secret"})
    told = evaluate(tmp_path / "drawn", standard).retold
    assert told is not None
    assert told["same"] is False
    assert "secret" in told["reason"]


def test_a_model_that_diverged_gets_one_sentence(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedunlearn.battery import subject

    genuine = subject._model

    def broken(run: Any, name: str, world: Any) -> Any:
        vector = genuine(run, name, world)
        return np.full_like(vector, 3e38) if name == "unlearned" else vector

    monkeypatch.setattr(subject, "_model", broken)
    with pytest.raises(UserError, match="NaN or infinity"):
        evaluate(made, QUICK)
