"""The strong attacks: on normal margins with a known best test, and on small overfitted networks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.datasets import load_digits

from fedunlearn.errors import UserError
from fedunlearn.evaluation.attacks.areas import auc, auc_interval_of, paired_auc_interval
from fedunlearn.evaluation.attacks.example_game import lira_pairs, loss_pairs, split_models
from fedunlearn.evaluation.attacks.lira import fit, lira_score
from fedunlearn.evaluation.attacks.rmia import rmia_score
from fedunlearn.evaluation.attacks.roc import tpr_at
from fedunlearn.evaluation.attacks.shadow_game import shadow_game
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.measure import Found
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.randomness import generator, torch_seed

SETS = {"forget": 120, "test": 150, "never_member": 90}


def outputs(logits: np.ndarray, labels: np.ndarray) -> Outputs:
    n = len(labels)
    return Outputs(logits, labels, np.arange(n), np.zeros(n, dtype=np.int64))


def of_margins(margins: np.ndarray) -> Outputs:
    """Outputs of two classes with the given margins."""
    return outputs(np.stack([margins, np.zeros_like(margins)], 1), np.zeros(len(margins), dtype=np.int64))


def gaussian_world(pairs: int, remembered: float, left: float = 0.0, sets: dict[str, int] = SETS, seed: int = 1):
    """Answers and shadow margins: N(difficulty, 1), plus ``remembered`` on the forget set of original models and
    ``left`` on that of unlearned ones."""
    draw = generator(seed, "test-shadow-game")
    shifts = {"original": remembered, "unlearned": left, "retrained": 0.0, "control": 0.0}
    levels = {name: draw.normal(2, 3, n) for name, n in sets.items()}

    def margins(kind: str, *models: int) -> dict[str, np.ndarray]:
        return {
            name: level + shifts[kind] * (name == "forget") + draw.standard_normal((*models, len(level)))
            for name, level in levels.items()
        }

    answers = {kind: {name: of_margins(m) for name, m in margins(kind).items()} for kind in shifts}
    shadow = ShadowMargins(*[margins(kind, pairs) for kind in ("original", "unlearned", "retrained")])
    return answers, shadow


def by_name(found: Found) -> dict:
    return {measure.name: measure for measure in found.measures}


@pytest.fixture(scope="module")
def remembered():
    return gaussian_world(16, remembered=2.5, left=0.0)


@pytest.fixture(scope="module")
def found(remembered):
    return shadow_game(*remembered, seed=1)


def test_the_world_game_is_lira_on_the_same_samples_under_two_models(remembered, found):
    answers, shadow = remembered
    laws = fit(shadow.original["forget"]), fit(shadow.retrained["forget"])
    scores = {model: lira_score(answers[model]["forget"].margin, *laws) for model in answers}
    line = by_name(found)["world_lira_auc_above_retrained"]
    for model in ("original", "unlearned", "control"):
        estimate = getattr(line, model)
        assert estimate.value == auc(scores[model], scores["retrained"])
        assert (estimate.low, estimate.high) == paired_auc_interval(scores[model], scores["retrained"], 1)
    assert line.retrained is None
    rate = by_name(found)["world_lira_tpr_at_fpr_0.1_above_retrained"]
    assert rate.original == tpr_at(scores["original"], scores["retrained"], 0.1).tpr


def test_u_lira_is_taught_by_the_unlearned_models(remembered, found):
    answers, shadow = remembered
    laws = fit(shadow.unlearned["forget"]), fit(shadow.retrained["forget"])
    scores = [lira_score(answers[model]["forget"].margin, *laws) for model in ("unlearned", "retrained")]
    line = by_name(found)["world_ulira_auc_above_retrained"]
    assert line.unlearned.value == auc(*scores) and line.original is None and line.control is not None
    assert by_name(found)["pairs_ulira_auc_above_retrained"].original is None


def test_a_remembered_forget_set_is_found_at_the_rate_of_the_best_test_and_a_forgotten_one_is_not(found):
    lines = by_name(found)
    best = norm.cdf(2.5 / np.sqrt(2))
    lira = lines["pairs_lira_auc_above_retrained"]
    assert abs(lira.original.value - best) < 0.02
    for name in ("pairs_lira_auc_above_retrained", "pairs_ulira_auc_above_retrained", "pairs_rmia_auc_above_retrained",
                 "pairs_loss_auc_above_retrained"):  # fmt: skip
        assert lines[name].control.low <= 0.5 <= lines[name].control.high
    ulira = lines["pairs_ulira_auc_above_retrained"].unlearned
    assert ulira.low <= 0.5 <= ulira.high
    at = [lines[f"pairs_{attack}_tpr_at_fpr_0.01_above_retrained"] for attack in ("lira", "loss")]
    assert abs(at[0].original.value - norm.cdf(norm.ppf(0.01) + 2.5)) < 0.08
    assert at[0].original.low > at[1].original.high
    assert max(line.control.value for line in at) < 0.03


def test_u_lira_finds_what_a_method_leaves_and_lira_only_what_looks_like_before():
    """A method that pushes margins below those of retraining: LiRA says "less like a member", U-LiRA "unlearned"."""
    lines = by_name(shadow_game(*gaussian_world(16, remembered=2.0, left=-2.0), seed=1))
    assert lines["world_lira_auc_above_retrained"].unlearned.value < 0.2
    assert lines["world_ulira_auc_above_retrained"].unlearned.value > 0.8
    assert lines["pairs_ulira_auc_above_retrained"].unlearned.low > 0.85


def test_the_control_over_models_is_one_half_of_the_retrained_models_against_the_other(remembered, found):
    _, shadow = remembered
    retrained = shadow.retrained["forget"]
    one, other = split_models(16, 1)
    lines = by_name(found)
    assert lines["pairs_lira_auc_above_retrained"].control == lira_pairs(retrained[one], retrained[other]).area()
    assert lines["pairs_loss_auc_above_retrained"].control == loss_pairs(retrained[one], retrained[other]).area()
    assert lines["pairs_lira_auc_above_retrained"].samples == {"forget": 120, "pairs": 16, "control pairs": 8}
    assert lines["pairs_lira_auc_above_retrained"].original == lira_pairs(shadow.original["forget"], retrained).area()


def test_rates_over_pairs_have_intervals_over_models(remembered, found):
    _, shadow = remembered
    inside, outside = shadow.original["forget"], shadow.retrained["forget"]
    at = tpr_at(inside.ravel(), outside.ravel(), 0.1)
    line = by_name(found)["pairs_loss_tpr_at_fpr_0.1_above_retrained"]
    assert line.original == loss_pairs(inside, outside).found_above(at.threshold)
    assert line.original.value == at.tpr.value
    assert "the interval covers models" in line.reads


def test_the_world_game_says_that_one_control_misses_chance_by_luck(found):
    reads = by_name(found)["world_ulira_auc_above_retrained"].reads
    assert "not models" in reads and "may miss 0.5 widely too" in reads and "the game over pairs" in reads


def test_never_members_are_the_population_of_rmia(remembered, found):
    answers, shadow = remembered
    scores = [
        rmia_score(answers[model]["forget"].margin, shadow.retrained["forget"],
                   answers[model]["never_member"].margin, shadow.retrained["never_member"])
        for model in ("original", "retrained")
    ]  # fmt: skip
    assert by_name(found)["world_rmia_auc_above_retrained"].original.value == auc(*scores)


def test_the_members_game_stands_against_test_samples(remembered, found):
    answers, shadow = remembered
    lines = by_name(found)
    means = {name: shadow.retrained[name].mean(0) for name in ("forget", "test")}
    for model in ("original", "retrained"):
        # one shared deviation: the order of the offline scores is that of the distance from the mean
        pair = [answers[model][name].margin - means[name] for name in ("forget", "test")]
        estimate = getattr(lines["members_lira_offline_auc_forget_above_test"], model)
        assert estimate.value == pytest.approx(auc(*pair), abs=1e-12)
        assert (estimate.low, estimate.high) == pytest.approx(auc_interval_of(*pair), abs=1e-12)
    bare = lines["members_loss_auc_forget_above_test"].original
    losses = [-answers["original"][name].loss for name in ("forget", "test")]
    assert bare.value == pytest.approx(auc(*losses), abs=1e-12)
    offline = lines["members_lira_offline_auc_forget_above_test"]
    assert offline.original.low > bare.high
    assert abs(offline.retrained.value - 0.5) < 0.1
    assert lines["members_rmia_auc_forget_above_test"].original.value > bare.value + 0.05


def test_single_samples_stand_beside_their_control(found):
    lines = by_name(found)
    worst = lines["examples_lira_auc_max_above_retrained"]
    assert worst.control.value > 0.75 and abs(worst.unlearned.value - worst.control.value) < 0.08
    middle = lines["examples_lira_auc_median_above_retrained"]
    assert middle.original.value > 0.9 and abs(middle.unlearned.value - 0.5) < 0.1
    assert worst.samples == {"forget": 120, "models": 8}


def test_curves_hold_the_loss_threshold_in_every_panel_and_are_plain_numbers(found):
    panels: dict[str, set[str]] = {}
    for curve in found.curves["roc"]:
        panels.setdefault(curve["group"], set()).add(curve["attack"])
        assert curve["fpr"][0] == curve["tpr"][0] == 0 and curve["fpr"][-1] == curve["tpr"][-1] == 1
    assert all("loss" in attacks and len(attacks) >= 3 for attacks in panels.values())
    assert {"shadow, original", "shadow, unlearned", "shadow, control", "shadow pairs, original",
            "shadow members, retrained"} <= set(panels)  # fmt: skip
    assert json.loads(json.dumps(found.curves)) == found.curves
    (curve,) = [c for c in found.curves["roc"] if (c["group"], c["attack"]) == ("shadow pairs, original", "lira")]
    line = by_name(found)["pairs_lira_auc_above_retrained"]
    assert curve["smallest_fpr"] == 1 / (16 * 120) and abs(curve["auc"] - line.original.value) < 0.02


def test_the_same_seed_gives_the_same_numbers(remembered, found):
    assert shadow_game(*remembered, seed=1) == found


@pytest.mark.parametrize(
    ("pairs", "refused", "given"),
    [(2, {"lira", "pairs"}, {"rmia", "loss"}), (5, {"pairs"}, {"lira", "ulira", "rmia", "loss"})],
)
def test_few_pairs_refuse_what_they_cannot_teach(pairs, refused, given):
    result = shadow_game(*gaussian_world(pairs, 2.0), rates=(0.1,), seed=1)
    assert {refusal.name for refusal in result.refusals} == refused
    names = set(by_name(result))
    assert {name.split("_")[1] for name in names if name.startswith("world")} == given
    assert not any(name.startswith(("pairs", "examples")) for name in names)


def test_rates_that_a_game_cannot_resolve_are_refused_and_those_that_none_can_are_an_error(remembered):
    result = shadow_game(*remembered, rates=(0.2, 0.005), seed=1)
    assert {refusal.name for refusal in result.refusals} == {"world_tpr_at_fpr_0.005", "members_tpr_at_fpr_0.005"}
    assert "at least 200 deleted samples, and there are 120" in result.refusals[0].reason
    assert "pairs_lira_tpr_at_fpr_0.005_above_retrained" in by_name(result)
    assert "world_lira_tpr_at_fpr_0.2_above_retrained" in by_name(result)
    with pytest.raises(UserError, match="at least 10000 non-members, and there are 960"):
        shadow_game(*remembered, rates=(0.0001,), seed=1)


def test_usual_rates_that_a_game_cannot_resolve_are_told(found):
    assert {refusal.name for refusal in found.refusals} == {
        "world_tpr_at_fpr_0.001", "members_tpr_at_fpr_0.001", "pairs_tpr_at_fpr_0.001"
    }  # fmt: skip


def test_without_never_members_or_control_the_games_are_still_played():
    answers, shadow = gaussian_world(6, 2.0, sets={"forget": 30, "test": 40})
    del answers["control"]
    lines = by_name(shadow_game(answers, shadow, seed=1))
    assert lines["world_rmia_auc_above_retrained"].control is None
    assert lines["world_rmia_auc_above_retrained"].original.value > 0.6


def test_one_deleted_sample_is_refused_and_other_samples_are_a_mistake():
    (refusal,) = shadow_game(*gaussian_world(6, 2.0, sets={"forget": 1, "test": 40}), seed=1).refusals
    assert "two deleted samples" in refusal.reason
    answers, _ = gaussian_world(6, 2.0)
    with pytest.raises(ValueError, match="other samples of the forget set"):
        shadow_game(answers, gaussian_world(6, 2.0, sets={**SETS, "forget": 7})[1], seed=1)


# --- networks ---------------------------------------------------------------------------------------------------------

TRAIN, FORGET, PAIRS = 250, 100, 16


def networks(count: int, inputs: torch.Tensor, labels: torch.Tensor, name: int):
    """Train ``count`` networks of 64-32-10 units at once on the same samples, from seeds of their own, far beyond need;
    return a function from inputs to logits (count, n, 10)."""
    draw = torch.Generator().manual_seed(torch_seed(name, "test-shadow-game"))
    weights = [
        torch.randn(count, 64, 32, generator=draw) / 8, torch.zeros(count, 1, 32),
        torch.randn(count, 32, 10, generator=draw) / 32**0.5, torch.zeros(count, 1, 10),
    ]  # fmt: skip
    for weight in weights:
        weight.requires_grad_(True)

    def logits(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ weights[0] + weights[1]) @ weights[2] + weights[3]

    steps = torch.optim.Adam(weights, lr=0.01)
    for _ in range(150):
        steps.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(inputs).flatten(0, 1), labels.repeat(count), reduction="sum")
        (loss / len(labels)).backward()
        steps.step()
    return lambda x: logits(x).detach().double().numpy()


@pytest.fixture(scope="module")
def digits():
    """Overfitted networks on digits. The method under test does nothing: *unlearned* is *original*."""
    data = load_digits()
    order = generator(1, "test-shadow-game").permutation(len(data.target))
    x = torch.tensor(data.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(data.target[order])
    # the run's own original beside the shadows'; the run's retrained and control beside theirs
    inside = networks(PAIRS + 1, x[:TRAIN], y[:TRAIN], 1)
    outside = networks(PAIRS + 2, x[FORGET:TRAIN], y[FORGET:TRAIN], 2)
    places = {"forget": slice(0, FORGET), "test": slice(TRAIN, 1000), "never_member": slice(1000, None)}
    said = {name: (inside(x[place]), outside(x[place]), y[place].numpy()) for name, place in places.items()}
    own = {"original": (0, -1), "unlearned": (0, -1), "retrained": (1, -1), "control": (1, -2)}
    answers = {
        model: {name: outputs(parts[side][k], parts[2]) for name, parts in said.items()}
        for model, (side, k) in own.items()
    }
    margins = [
        {name: np.stack([outputs(p, parts[2]).margin for p in parts[side][:PAIRS]]) for name, parts in said.items()}
        for side in (0, 1)
    ]
    return answers, ShadowMargins(margins[0], margins[0], margins[1])


def test_an_overfitted_model_with_an_untouched_forget_set_is_detected(digits):
    answers, shadow = digits
    assert answers["original"]["forget"].correct.all() and not answers["retrained"]["forget"].correct.all()
    lines = by_name(shadow_game(answers, shadow, seed=1))
    # one model: 100 positives and 100 negatives; all pairs: 1600 and 1600
    for game in ("world", "pairs"):
        lira, ulira, loss = (
            lines[f"{game}_{attack}_tpr_at_fpr_0.01_above_retrained"] for attack in ("lira", "ulira", "loss")
        )
        assert lira.original.low > loss.original.high, game
        assert ulira.unlearned.low > loss.unlearned.high, game
    areas = {attack: lines[f"pairs_{attack}_auc_above_retrained"] for attack in ("lira", "rmia", "loss")}
    assert areas["lira"].original.low > areas["rmia"].original.high > areas["loss"].original.high
    assert lines["examples_lira_auc_median_above_retrained"].unlearned.value > 0.8


def test_the_same_recipe_trained_twice_gives_control_values_at_chance(digits):
    lines = by_name(shadow_game(*digits, seed=1))
    for attack in ("lira", "ulira", "rmia", "loss"):
        over_models = lines[f"pairs_{attack}_auc_above_retrained"].control
        assert over_models.low <= 0.5 <= over_models.high and abs(over_models.value - 0.5) < 0.06, attack
        assert abs(lines[f"world_{attack}_auc_above_retrained"].control.value - 0.5) < 0.12, attack
        assert lines[f"pairs_{attack}_tpr_at_fpr_0.01_above_retrained"].control.value < 0.03, attack
    assert abs(lines["examples_lira_auc_median_above_retrained"].control.value - 0.5) < 0.07
