"""Membership inference from two models: what the release of a new model tells those who kept the old one.

Chen et al. (2021, 2005.02205) showed that the difference between the outputs before and after a deletion can betray
which samples were deleted, even where the new model alone tells nothing. Here the attacker has the original model, sees
another one, and compares each sample's outputs. Positives are forget samples; negatives are test samples (in neither
model) or retain samples (in both). The columns name the model that was released:

- ``unlearned``: the answer of the run.
- ``retrained``: what exact retraining reveals. It is **not chance**: a sample that leaves the training set loses
  confidence, and whoever kept the old model sees it. No method that forgets can reveal nothing at all, and this is the
  value to read the answer against. Above it, the method marks the deleted samples more than retraining would.
- ``control``: another retrained model; beside ``retrained`` it tells the chance of training.
- ``original``, for the trained attacker alone: no new model at all, so what the old model alone gives away.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedunlearn.evaluation.attacks.attack_lines import Comparison, models_of, resolved, score_lines
from fedunlearn.evaluation.distance import total_variation
from fedunlearn.evaluation.measure import Found, Refusal, together
from fedunlearn.evaluation.outputs import Answers, Outputs
from fedunlearn.randomness import uniforms

TRAIN_CAP = 1000
"""At most so many positives, and so many negatives, train the attacker of a half."""
LEAST = 10
"""Fewer positives or negatives than this train no attacker."""
_TARGET = (
    "the retrained column is what exact retraining reveals to those who kept the original, which is not chance; "
    "above it, the answer marks the deleted samples more than retraining would"
)

Vector = NDArray[np.float64]


def two_models(answers: Answers, *, seed: int, rates: tuple[float, ...]) -> Found:
    """Return what can be told about the forget set from the original and a second model.

    Args:
        answers: outputs of ``original`` and of the other models on ``forget``, ``retain`` and ``test``.
        seed: seed of the halves of the trained attacker.
        rates: false positive rates at which true positives are told; empty for the usual ones that each set resolves.

    Raises UserError for a stated rate that the retain or the test set cannot resolve.
    """
    before = answers["original"]
    released = [model for model in models_of(answers) if model != "original"]
    negatives: tuple[Literal["test", "retain"], ...] = ("test", "retain")
    parts = []
    for others in negatives:
        told, refused = resolved(rates, len(before[others]), others, f"update_forget_more_than_{others}")
        parts.append(refused)
        for kind, words, score in (
            ("loss_rises", "loss rise", loss_rise),
            ("outputs_move", "outputs' move", outputs_move),
        ):
            verb = "has a larger rise of its loss" if kind == "loss_rises" else "sees its outputs move further"
            of = Comparison(
                "update", f"forget_{kind}_more_than_{others}", f"{words} against {others}",
                f"{verb} from the original to the released model", others, "update", _TARGET,
            )  # fmt: skip
            pairs = {
                m: (score(before["forget"], answers[m]["forget"]), score(before[others], answers[m][others]))
                for m in released
            }
            parts.append(score_lines(of, pairs, told))
        of = Comparison(
            "update", f"logistic_forget_above_{others}", f"logistic on both against {others}",
            "scores higher with a logistic regression on the outputs of the original and the released model", others,
            "update", f"{_TARGET}; the original column has no released model: what the old one alone gives away",
            attackers=2,
        )  # fmt: skip
        forget, count = len(before["forget"]), len(before[others])
        if min(forget, count) < LEAST:
            reason = (
                f"it needs at least {LEAST} forget and {LEAST} {others} samples, and there are {forget} and {count}"
            )
            parts.append(Found(refusals=(Refusal(of.name("auc"), "membership", reason),)))
            continue
        pairs = {
            m: logistic_scores(
                update_features(before["forget"], answers[m]["forget"]),
                update_features(before[others], answers[m][others]),
                seed,
            )
            for m in ["original", *released]
        }
        parts.append(score_lines(of, pairs, told))
    return together(parts)


def loss_rise(before: Outputs, after: Outputs) -> Vector:
    """Return (n,) how much the cross-entropy of each sample rose, in nats."""
    return after.loss - before.loss


def outputs_move(before: Outputs, after: Outputs) -> Vector:
    """Return (n,) the total variation between the outputs of two models, in [0, 1]."""
    return total_variation(before.probabilities, after.probabilities)


def update_features(before: Outputs, after: Outputs) -> Vector:
    """Return (n, 3 classes + 1) what a trained attacker sees of each sample.

    The probabilities before, in descending order; the probabilities after, and the absolute differences, both in that
    same order of classes (the sorted concatenation and difference of Chen et al.); and the rise of the loss.
    """
    order = np.argsort(-before.probabilities, axis=1, kind="stable")
    p, q = (np.take_along_axis(outputs.probabilities, order, axis=1) for outputs in (before, after))
    return np.concatenate([p, q, np.abs(q - p), loss_rise(before, after)[:, None]], axis=1)


def logistic_scores(positives: Vector, negatives: Vector, seed: int) -> tuple[Vector, Vector]:
    """Return scores (m,) and (n,) in (0, 1] of a logistic regression that never judges a sample it was trained on.

    Both sets are halved by the seed; each half is scored by an attacker trained on at most :data:`TRAIN_CAP` positives
    and negatives of the other one, on standardised features. Scores of two attackers have no common scale, so each half
    hands out mid-ranks within itself, divided by its size. A difference by chance between the two halves of a set helps
    or hurts both attackers alike, so the area varies by about the root of two more than that of independent scores.

    Args:
        positives, negatives: (m, d) and (n, d) features, both of at least two samples.
        seed: seed of the halves.
    """
    halves = [_halves(len(rows), seed, which) for which, rows in enumerate((positives, negatives))]
    scores = np.empty(len(positives)), np.empty(len(negatives))
    for half in (0, 1):
        train = [rows[parts[1 - half][:TRAIN_CAP]] for rows, parts in zip((positives, negatives), halves)]
        labels = np.concatenate([np.ones(len(train[0])), np.zeros(len(train[1]))])
        attacker = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        attacker.fit(np.concatenate(train), labels)
        judged = [rows[parts[half]] for rows, parts in zip((positives, negatives), halves)]
        ranks = rankdata(attacker.decision_function(np.concatenate(judged)))
        ranks /= len(ranks)
        scores[0][halves[0][half]] = ranks[: len(judged[0])]
        scores[1][halves[1][half]] = ranks[len(judged[0]) :]
    return scores


def _halves(n: int, seed: int, which: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of two halves in random order, so that the first of a half are a sample of it; the second
    may be one larger."""
    order = np.argsort(uniforms(seed, "two-models", np.arange(n), which), kind="stable")
    return order[: n // 2], order[n // 2 :]
