"""Membership inference with shadow models: three games, four attacks, each beside the bare loss in the same game.

- *world*: the forget set at the run's own models. Positives are scores of the forgotten samples at the target,
  negatives are scores of *the same samples* at the retrained model: how hard a sample is cannot pass for membership.
- *members*: the usual game, the forget set against the test samples at one model. Forgotten samples may be harder or
  easier than test samples, so it is read beside the retrained model, never against 0.5.
- *pairs*: the world game at every pair of shadow models in turn; the interval covers models, not samples.

Attacks: LiRA (*in* = trained with the forget set), U-LiRA (*in* = unlearned by the run's method), RMIA, and the loss
threshold. In all of them an area above 0.5 says that positives look more like members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.evaluation.attacks import areas, example_game, roc
from fedunlearn.evaluation.attacks.lira import fit, lira_score, offline_score
from fedunlearn.evaluation.attacks.rmia import rmia_score
from fedunlearn.evaluation.attacks.shadow_margins import ShadowMargins
from fedunlearn.evaluation.measure import Estimate, Found, Measure, Refusal, together
from fedunlearn.evaluation.outputs import Answers, SetName

Array = NDArray[np.float64]
Scores = Callable[[str], Array]
LEAST_FOR_LIRA = 4
"""Fewest pairs for LiRA on the run's own models."""
LEAST_FOR_PAIRS = 2 * example_game.LEAST_PAIRS
"""Fewest pairs for numbers over models: their control stands half of the retrained models against the other half."""
LABELS = {"lira": "LiRA", "ulira": "U-LiRA", "lira_offline": "LiRA, offline", "rmia": "RMIA", "loss": "loss threshold"}


@dataclass(frozen=True, eq=False)
class _Duel:
    """Scores of positives and of negatives at one model or many, flat, and the area with its interval."""

    positives: Array
    negatives: Array
    area: Estimate
    over: example_game.PairGame | None = None
    """The game over models that the scores are of, whose intervals then cover models."""

    def found_at(self, rate: float) -> Estimate:
        """Return the true positive rate at a false positive rate."""
        at = roc.tpr_at(self.positives, self.negatives, rate)
        return at.tpr if self.over is None else self.over.found_above(at.threshold)


def shadow_game(answers: Answers, shadow: ShadowMargins, *, rates: tuple[float, ...] = (), seed: int) -> Found:
    """Return what the strong attacks find in a run: areas, true positives at few false ones, and ROC curves.

    Args:
        answers: what the run's models say; ``original``, ``unlearned``, ``retrained``, perhaps ``control``.
        shadow: margins of the shadow models on the same samples.
        rates: false positive rates asked for; if none, those of 0.1, 0.01 and 0.001 that each game can resolve.
        seed: seed of the bootstrap and of the halves of the control.

    Raises:
        UserError: for a rate asked for that none of the three games can resolve.
        ValueError: if the shadow models answered other samples than the run's.
    """
    forget, test = len(answers["retrained"]["forget"]), len(answers["retrained"]["test"])
    for name, margins in shadow.retrained.items():
        if name in answers["retrained"] and margins.shape[1] != len(answers["retrained"][name]):
            raise ValueError(f"the shadow models answered other samples of the {name} set than the run's models")
    if min(forget, test) < 2:
        why = f"attacks with shadow models need two deleted samples and two test samples, not {forget} and {test}"
        return Found(refusals=(Refusal("shadow_attacks", "shadows", why),))
    for rate in rates:
        roc.check_rate(rate, max(forget, test, shadow.count // 2 * forget if shadow.count >= LEAST_FOR_PAIRS else 0))
    parts = [_world_game(answers, shadow, rates, seed), _member_game(answers, shadow, rates)]
    if shadow.count < LEAST_FOR_LIRA:
        why = f"LiRA needs at least {LEAST_FOR_LIRA} shadow pairs, and there are {shadow.count}"
        parts.append(Found(refusals=(Refusal("lira", "shadows", why),)))
    if shadow.count < LEAST_FOR_PAIRS:
        why = f"numbers over models need at least {LEAST_FOR_PAIRS} shadow pairs, and there are {shadow.count}"
        parts.append(Found(refusals=(Refusal("pairs", "shadows", why),)))
    else:
        parts += [_pair_game(shadow, rates, seed), _examples(shadow, seed)]
    return together(parts)


# --- the run's own models ---------------------------------------------------------------------------------------------


def _world_game(answers: Answers, shadow: ShadowMargins, rates: tuple[float, ...], seed: int) -> Found:
    """The forget set at a target against the same samples at the retrained model."""
    n = len(answers["retrained"]["forget"])
    rates, refused = _resolvable(rates, n, "world", "deleted samples")
    parts = [Found(refusals=refused)]
    for attack, score in _attacks(answers, shadow).items():
        negatives = score("retrained")
        duels = {}
        for model in ("original", "unlearned", "control"):
            if model in answers and not (attack == "ulira" and model == "original"):
                scores = score(model)
                duels[model] = _Duel(scores, negatives, areas.paired_auc_estimate(scores, negatives, seed))
        reads = (
            f"{LABELS[attack]}: chance that a deleted sample scores above one at the retrained model; the interval "
            "covers samples, not models: all scores of one model move together with its seed, so the control, one "
            "draw of that, may miss 0.5 widely too, on either side, and a value no further out says nothing; the game "
            "over pairs covers models"
        )
        parts.append(
            _lines("world", attack, "above_retrained", duels, rates, reads, {"forget": n, "pairs": shadow.count},
                   ("{} forget", "retrained forget", "shadow, {}"))
        )  # fmt: skip
    return together(parts)


def _attacks(answers: Answers, shadow: ShadowMargins) -> dict[str, Scores]:
    """Return the attacks of the world game, each as a function from a model of the run to scores of the forget set."""

    def ratio(inside: Array) -> Scores:
        law_in, law_out = fit(inside), fit(shadow.retrained["forget"])
        return lambda model: lira_score(answers[model]["forget"].margin, law_in, law_out)

    attacks: dict[str, Scores] = {
        "rmia": lambda model: _rmia(answers, shadow, model, "forget"),
        "loss": lambda model: answers[model]["forget"].margin,
    }
    if shadow.count < LEAST_FOR_LIRA:
        return attacks
    return {"lira": ratio(shadow.original["forget"]), "ulira": ratio(shadow.unlearned["forget"]), **attacks}


def _member_game(answers: Answers, shadow: ShadowMargins, rates: tuple[float, ...]) -> Found:
    """The forget set against the test samples, at one model."""
    sizes = {"forget": len(answers["retrained"]["forget"]), "test": len(answers["retrained"]["test"])}
    rates, refused = _resolvable(rates, sizes["test"], "members", "test samples")
    parts = [Found(refusals=refused)]
    both = np.concatenate([shadow.retrained["forget"], shadow.retrained["test"]], axis=1)
    scores: dict[str, Callable[[str], tuple[Array, Array]]] = {}
    if shadow.count >= LEAST_FOR_LIRA:
        law = fit(both)  # one law over both sets: with variances of their own the scores would not be comparable

        def offline(model: str) -> tuple[Array, Array]:
            margins = np.concatenate([answers[model]["forget"].margin, answers[model]["test"].margin])
            z = offline_score(margins, law)
            return z[: sizes["forget"]], z[sizes["forget"] :]

        scores["lira_offline"] = offline
    scores["rmia"] = lambda model: (_rmia(answers, shadow, model, "forget"), _rmia(answers, shadow, model, "test"))
    scores["loss"] = lambda model: (answers[model]["forget"].margin, answers[model]["test"].margin)
    for attack, score in scores.items():
        duels = {}
        for model in ("original", "unlearned", "retrained", "control"):
            if model in answers:
                pair = score(model)
                duels[model] = _Duel(*pair, areas.auc_estimate(*pair))
        reads = (
            f"{LABELS[attack]}: chance that a deleted sample scores above a test sample at one model; the retrained "
            "model's value says that nothing is left"
        )
        parts.append(
            _lines("members", attack, "forget_above_test", duels, rates, reads, {**sizes, "pairs": shadow.count},
                   ("{} forget", "{} test", "shadow members, {}"))
        )  # fmt: skip
    return together(parts)


def _rmia(answers: Answers, shadow: ShadowMargins, model: str, name: SetName) -> Array:
    of = _population(shadow)
    return rmia_score(
        answers[model][name].margin, shadow.retrained[name], answers[model][of].margin, shadow.retrained[of]
    )


def _population(shadow: ShadowMargins) -> SetName:
    """RMIA's population: never-members if there are any, for they are nobody's negatives here, else test samples."""
    return "never_member" if shadow.retrained.get("never_member", np.zeros((0, 0))).size else "test"


# --- over models ------------------------------------------------------------------------------------------------------


def _pair_game(shadow: ShadowMargins, rates: tuple[float, ...], seed: int) -> Found:
    """The world game at every pair of shadow models; control: half of the retrained ones against the other half."""
    forget, of = {kind: getattr(shadow, kind)["forget"] for kind in ("original", "unlearned", "retrained")}, {}
    for kind in forget:
        of[kind] = getattr(shadow, kind)[_population(shadow)]
    one, other = example_game.split_models(shadow.count, seed)
    n = forget["retrained"].shape[1]
    rates, refused = _resolvable(rates, len(other) * n, "pairs", "deleted samples times models of the control")

    worlds = {
        kind: (forget[kind], forget["retrained"], of[kind], of["retrained"]) for kind in ("original", "unlearned")
    }
    worlds["control"] = (forget["retrained"][one], forget["retrained"][other], of["retrained"][one],
                         of["retrained"][other])  # fmt: skip
    games: dict[str, dict[str, example_game.PairGame]] = {"lira": {}, "ulira": {}, "rmia": {}, "loss": {}}
    for column, world in worlds.items():
        by_laws = example_game.lira_pairs(*world[:2])
        for attack, skipped in (("lira", "unlearned"), ("ulira", "original")):
            if column != skipped:
                games[attack][column] = by_laws
        games["rmia"][column] = example_game.rmia_pairs(*world)
        games["loss"][column] = example_game.loss_pairs(*world[:2])
    parts = [Found(refusals=refused)]
    for attack, columns in games.items():
        duels = {column: _Duel(g.inside.ravel(), g.outside.ravel(), g.area(), g) for column, g in columns.items()}
        reads = (
            f"{LABELS[attack]}: chance that a deleted sample scores above one at the retrained model of its pair, "
            "every shadow pair being the target once; 0.5 and the control say that nothing is left; "
        )
        parts.append(
            _lines("pairs", attack, "above_retrained", duels, rates, reads + "the interval covers models",
                   {"forget": n, "pairs": shadow.count, "control pairs": len(one)},
                   ("{} forget, all pairs", "retrained forget, all pairs", "shadow pairs, {}"),
                   of_rates="the interval covers models")
        )  # fmt: skip
    return together(parts)


def _examples(shadow: ShadowMargins, seed: int) -> Found:
    """How well the models of two worlds are told apart by single samples."""
    outside = shadow.retrained["forget"]
    found = {
        column: example_game.example_summary(margins["forget"], outside, seed)
        for column, margins in (
            ("original", shadow.original), ("unlearned", shadow.unlearned), ("control", shadow.retrained)
        )
    }  # fmt: skip
    half = shadow.count // 2
    which = {"median": "the middle sample", "p95": "the sample at the 95th percentile", "max": "the worst sample"}
    measures = [
        Measure(
            f"examples_lira_auc_{part}_above_retrained", "shadows",
            f"how well {half} models are told from {half} retrained ones by {text} alone (LiRA, leave-pair-out), mean "
            f"over {example_game.SPLITS} halves; the control, retrained against retrained, is what chance gives",
            samples={"forget": outside.shape[1], "models": half},
            **{column: Estimate(summary[part]) for column, summary in found.items()},
        )
        for part, text in which.items()
    ]  # fmt: skip
    return Found(tuple(measures))


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(
    game: str, attack: str, direction: str, duels: Mapping[str, _Duel], rates: tuple[float, ...], reads: str,
    samples: dict[str, int], texts: tuple[str, str, str], of_rates: str = "",
) -> Found:  # fmt: skip
    """Return an attack's lines of one game, and its ROC curves; ``texts`` name positives, negatives and panel."""
    columns: dict[str, Any] = {column: duel.area for column, duel in duels.items()}
    measures = [Measure(f"{game}_{attack}_auc_{direction}", "shadows", reads, samples=samples, **columns)]
    for rate in rates:
        columns = {column: duel.found_at(rate) for column, duel in duels.items()}
        text = (
            f"{LABELS[attack]}: share of the positives found where {rate:g} of the negatives are; as many as "
            f"{'the retrained model has' if 'retrained' in duels else 'the control has'} say that nothing is left"
        )
        name = f"{game}_{attack}_tpr_at_fpr_{rate:g}_{direction}"
        measures.append(Measure(name, "shadows", "; ".join(filter(None, (text, of_rates))), samples=samples, **columns))
    curves = []
    for column, duel in duels.items():
        positives, negatives, group = (text.format(column) for text in texts)
        curves.append(
            roc.roc_curve_table(roc.roc_of(duel.positives, duel.negatives), attack=attack, label=LABELS[attack],
                            positives=positives, negatives=negatives, group=group)
        )  # fmt: skip
    return Found(tuple(measures), curves={"roc": curves})


def _resolvable(
    rates: tuple[float, ...], n: int, game: str, what: str
) -> tuple[tuple[float, ...], tuple[Refusal, ...]]:  # fmt: skip
    """Return the rates, asked for or usual, that a game of n negatives can resolve, and a refusal for each other."""
    wanted = rates or roc.RATES
    good = tuple(rate for rate in wanted if rate >= roc.smallest_fpr(n) * (1 - 1e-9))
    refused = tuple(
        Refusal(
            f"{game}_tpr_at_fpr_{rate:g}", "shadows",
            f"a false positive rate of {rate:g} needs at least {math.ceil(1 / rate - 1e-9)} {what}, and there are {n}",
        )
        for rate in wanted if rate not in good
    )  # fmt: skip
    return good, refused
