"""The sentences of a rewind certificate: premises with their statuses, scope, view and limits, from a run's facts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedunlearn.privacy.certificate import Noise, Premise
from fedunlearn.privacy.claims.rewind_facts import RewindFacts
from fedunlearn.privacy.claims.tolerance_wording import LIMITS, _premise

SOFTMAX_GRADIENT = math.sqrt(2.0)
"""Bound on the gradient of a softmax head's loss at any row of norm at most one."""
SOFTMAX_SMOOTHNESS = 0.5
"""Lipschitz constant of that gradient."""


def theorem_of(facts: RewindFacts, exact: bool) -> tuple[str, str]:
    """Return the name of the statement that applies, and what it claims in one sentence."""
    many = f", mean of {facts.nodes} rows" if facts.nodes > 1 else ""
    name = f"4f (rewinding over a public schedule of ids; {facts.row} loss{many})"
    other = "what training without the deleted data, by the same schedule with holes and the same noise, would release"
    if exact:
        return name, f"What is released has the same law as {other}: the same steps from the same start."
    return name, f"What is released is (epsilon, delta)-indistinguishable, both ways, from {other}."


def premises_of(facts: RewindFacts, hashes: Mapping[str, str]) -> tuple[Premise, ...]:
    """Return the premises of the theorem."""
    premises = [
        _gradient_bound(facts),
        _loss(facts),
        _premise(
            "public schedule",
            facts.schedule_over_ids and facts.fixed_divisor,
            f"batches are a function of the seed and of all {facts.total} ids; deleted ids leave holes, and sums are "
            "divided by the ids of the batch, present or not",
            "nothing shows that batches and divisors are the same with and without the deleted ids",
        ),
        _premise(
            "plain steps",
            facts.plain_steps and facts.equal_steps,
            "every row takes every step, without momentum or other state beside the row itself",
            "steps depend on more than the row and its batch, or rows take different numbers of them",
        ),
        _arithmetic(facts),
        _premise(
            "deletions counted",
            facts.all_deletions_counted,
            f"the bound counts all {facts.deleted} ids deleted since the rows that the replay starts from were trained",
            "the bound may not count everything that was deleted since the checkpoint",
        ),
        _premise(
            "public start",
            facts.public_start,
            "training starts from a vector that no record of a client has touched",
            "training starts from somebody's checkpoint, which may have seen anything",
        ),
    ]
    if facts.nodes > 1:
        premises.append(
            _premise(
                "same mixing",
                facts.mixing_kept,
                "rows are mixed by the same doubly stochastic matrices in both runs; a client that is deleted stays as "
                "a vertex without data",
                "the deletion changes the mixing matrix, by which the two runs drift apart further",
            )
        )
    if facts.start_rows == "walked-back":
        premises.append(
            Premise(
                "walked-back rows",
                "enforced",
                f"they were compared with those of training before any request and are within {facts.offset:g} of "
                f"them, a bound fixed beforehand that the distance contains (largest remainder {facts.residual:.1e})",
            )
            if facts.residual is not None
            else Premise("walked-back rows", "assumed", "nothing shows how near they are to those that training had")
        )
    premises += [
        _premise(
            "noise on both sides",
            facts.noise_on_both_sides,
            "training ends by the same rule: the mean of the rows, with noise of the same scale",
            "training does not end with the same noise",
        ),
        _premise(
            "single draw",
            facts.fresh_draw,
            "the noise was drawn for this release, added to one vector and used once",
            "nothing prevented the noise from serving another release too",
        ),
        _features(facts, hashes),
        _premise(
            "public settings",
            "settings.toml" in hashes,
            f"the recipe and sigma = {facts.sigma_drawn:g} are those of the settings file with the recorded hash",
            "no hash of the settings was recorded",
        ),
    ]
    return tuple(premises)


def scope_of(facts: RewindFacts, noise: Noise) -> tuple[str, ...]:
    """Return the threat model, one line each, beginning with who the observers are."""
    lines = [
        "released: observers see this one release after the request, given what was known before it",
        "later releases: each starts from the same noise-free rows, so that the privacy numbers of all releases since "
        "a deletion add up in squares for whoever sees them together",
    ]
    if noise == "simulated":
        lines.append(
            "simulation only: the noise derives from the run's seed, so whoever knows the seed can subtract it; the "
            "claim is about the same run with secret noise"
        )
    else:
        lines.append("noise: it came from the operating system, was not stored, and nobody else saw it")
    lines += [
        "requests: they do not depend on released models; that someone was deleted, or is retained, because of an "
        "earlier release is outside the claim",
        "constants: every setting was fixed before any record that may be deleted was seen; the number of steps was "
        "not chosen by looking at a loss",
    ]
    return tuple(lines)


def view_of(facts: RewindFacts, exact: bool) -> tuple[str, str]:
    """Return what holds for observers of the messages of unlearning, and why."""
    if exact and facts.start_rows == "public":
        return "T-V0", (
            "The whole training was run again from its public start on retained data: messages and releases have the "
            "same law as in retraining, (0, 0) for every observer."
        )
    return "none", (
        "The replay starts from the rows of a checkpoint, which were trained on the deleted data, and its messages are "
        "these rows."
    )


def limits_of(facts: RewindFacts) -> tuple[str, ...]:
    """Return what the certificate does not cover."""
    lines = [*LIMITS]
    if facts.start_rows != "public":
        lines.append(
            "What the network stores: its checkpoints, the one that the replay started from and the others, still hold "
            "the deleted data."
        )
    lines.append("That ids were deleted, and which: their slots in the schedule stay empty, in retraining too.")
    if not facts.float64_steps:
        lines.append("Rounding of the clipping itself: a gradient's norm is taken and scaled in float32.")
    return tuple(lines)


def _arithmetic(facts: RewindFacts) -> Premise:
    """Return the premise on rounding: what one step does to a row of known norm is in the distance.

    Without float64 steps nothing is known of a gradient's rounding error, which only the row ``clipped`` can do with.
    """
    detail = (
        f"the distance allows for {facts.roundings} roundings of every row to float32 in every step from where the two "
        "runs part"
    )
    known = facts.roundings > 0 and (facts.float64_steps or facts.row == "clipped")
    return _premise("arithmetic", known, detail, "rounding errors of the steps may exceed what the distance allows for")


def _gradient_bound(facts: RewindFacts) -> Premise:
    name, bound = "gradient bound", facts.gradient_bound
    if facts.gradient_bound_by == "clipping" and facts.clip is not None and facts.clip <= bound:
        return Premise(name, "enforced", f"the gradient of every record was clipped to norm {facts.clip:g}")
    if facts.gradient_bound_by == "softmax" and facts.softmax_loss and bound >= SOFTMAX_GRADIENT * (1 - 1e-15):
        if facts.features_bounded:
            detail = f"at most {bound:.6g}: softmax head, every feature row of norm at most one"
            return Premise(name, "enforced", detail)
        return Premise(name, "assumed", f"{bound:.6g} if feature rows had norm one, but they were not scaled to it")
    if facts.gradient_bound_by == "measured":
        return Premise(name, "measured", f"{bound:.6g} was the largest norm seen, which bounds nothing elsewhere")
    return Premise(name, "assumed", f"nothing shows that {bound:.6g} bounds the gradient of every record")


def _loss(facts: RewindFacts) -> Premise:
    """Return the premise on the loss: the condition on the step size was checked by the recursion itself."""
    if facts.row == "clipped":
        return Premise("loss", "enforced", "nothing is asked of the loss but bounded gradients")
    head = facts.softmax_loss and facts.features_bounded
    known = head and facts.smoothness is not None and facts.smoothness >= SOFTMAX_SMOOTHNESS
    if facts.row == "smooth":
        detail = f"gradients are {facts.smoothness:g}-Lipschitz, and stay so when clipped"
        return _premise("loss", known, detail, f"nothing shows that gradients are {facts.smoothness:g}-Lipschitz")
    unclipped = facts.clip is None or (head and facts.clip >= SOFTMAX_GRADIENT)
    largest = max((rate for _, rate in facts.rates), default=0.0)
    detail = (
        f"softmax cross-entropy, which is convex with {facts.smoothness:g}-Lipschitz gradients on rows of norm at most "
        f"one, unclipped; L2 term {facts.l2:g} on all parameters; step sizes up to {largest:g} keep two runs together"
    )
    return _premise(
        "loss", known and unclipped, detail, f"nothing shows that the loss is {facts.row}, or clipping may change it"
    )


def _features(facts: RewindFacts, hashes: Mapping[str, str]) -> Premise:
    if facts.extractor == "none":
        return Premise("public features", "enforced", "features are a fixed rule of each record alone")
    if facts.extractor == "public" and {"extractor", "extractor_training_rows"} <= set(hashes):
        detail = "the extractor and its training records are recorded by hash, and none of them belongs to a client"
        return Premise("public features", "enforced", detail)
    return Premise(
        "public features", "assumed", "nothing shows that the extractor never saw records that may be deleted"
    )
