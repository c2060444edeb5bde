"""All scores over populations together: names that do not clash, refusals in place of gaps."""

from __future__ import annotations

import numpy as np
import pytest

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.outputs import Outputs
from fedunlearn.evaluation.populations.forgetting_score import forgetting_scores
from fedunlearn.evaluation.populations.klom import klom_scores
from fedunlearn.evaluation.populations.population_epsilon import population_epsilons
from fedunlearn.evaluation.populations.populations import populations
from fedunlearn.randomness import generator

SETS = ("forget", "retain", "test")


def run(count: int) -> tuple[dict, ShadowMargins]:
    draw = generator(1, "test-populations")
    zeros = np.zeros(8, np.int64)
    answers = {
        model: {which: Outputs(draw.normal(1, 1, (8, 2)) * [1, 0], zeros, np.arange(8), zeros) for which in SETS}
        for model in ("original", "unlearned", "retrained", "control")
    }
    return answers, ShadowMargins(*({s: draw.normal(m, 1, (count, 8)) for s in SETS} for m in (2, 0.3, 0)))


def test_the_parts_stand_side_by_side_and_are_fixed_by_the_seed():
    answers, shadow = run(64)
    found = populations(answers, shadow, seed=3)
    parts = [
        klom_scores(shadow, seed=3), forgetting_scores(answers, shadow, seed=3), population_epsilons(shadow, seed=3),
    ]  # fmt: skip
    assert found.measures == tuple(measure for part in parts for measure in part.measures)
    assert {measure.section for measure in found.measures} == {"populations"}
    assert not found.refusals
    other = {m.name: m for m in populations(answers, shadow, seed=4).measures}
    name = "klom_model_to_retrained_forget_mean"
    first = {m.name: m for m in found.measures}
    assert other[name] == first[name]
    assert other[f"{name}_half_the_models"] != first[f"{name}_half_the_models"]


@pytest.mark.parametrize("count", [4, 16, 63])
def test_few_models_give_the_sound_bound_alone(count):
    found = populations(*run(count), seed=1)
    assert all(measure.name.startswith("population_epsilon") for measure in found.measures)
    assert {"klom", "forgetting_score"} <= {refusal.name for refusal in found.refusals}
    for refusal in found.refusals:
        assert f"there are {count}: ask for --shadows" in refusal.reason


def test_without_shadow_models_every_score_says_so():
    answers, _ = run(4)
    found = populations(answers, None, seed=1)
    assert not found.measures
    assert len(found.refusals) == 3
    assert all("--battery full" in refusal.reason for refusal in found.refusals)
