"""Scores over whole populations of models: KLoM, the NeurIPS-2023 forgetting score, and a sound bound on epsilon."""

from __future__ import annotations

from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.measure import Found, Refusal, together
from fedunlearn.evaluation.outputs import Answers
from fedunlearn.evaluation.populations.forgetting_score import forgetting_scores
from fedunlearn.evaluation.populations.klom import klom_scores
from fedunlearn.evaluation.populations.population_epsilon import population_epsilons


def populations(answers: Answers, shadow: ShadowMargins | None, *, seed: int) -> Found:
    """Return all scores over populations of shadow models; without shadow models, what refuses them.

    Args:
        answers: what the run's own models say; their accuracies enter the NeurIPS-2023 score.
        shadow: margins of shadow models, or None below the full battery.
        seed: seed of the halves of the models.
    """
    if shadow is None:
        scores = ("klom", "forgetting_score", "population_epsilon_lower_bound_from_retrained")
        reason = "it compares populations of shadow models, which only the full battery trains: ask for --battery full"
        return Found(refusals=tuple(Refusal(score, "populations", reason) for score in scores))
    return together(
        (
            klom_scores(shadow, seed=seed),
            forgetting_scores(answers, shadow, seed=seed),
            population_epsilons(shadow, seed=seed),
        )
    )
