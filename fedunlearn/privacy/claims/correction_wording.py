"""The sentences of a broadcast correction's certificate: what it claims, for whom, and what it leaves out."""

from __future__ import annotations

from fedunlearn.privacy import gaussian
from fedunlearn.privacy.certificate import Noise
from fedunlearn.privacy.claims.correction_facts import CorrectionFacts
from fedunlearn.privacy.claims.tolerance_wording import LIMITS

SCALE = 1.0
"""Sensitivities above this distance exceed what parameters of a linear head usually are."""


def theorem_of(facts: CorrectionFacts) -> str:
    """Return the name of the statement that applies."""
    how = "measured acceptance" if facts.bound == "measured" else "worst-case error of one Newton/Fisher step"
    who = "T2 (one vector)" if facts.one_vector else "T2 (one node's own model)"
    many = f", T5.2 (sqrt({facts.releases}) over {facts.releases} answers)" if facts.releases > 1 else ""
    return f"{who}, {how}{many}"


def claim_of(facts: CorrectionFacts) -> str:
    """Return what the release is compared with, in one sentence."""
    what = "What the nodes hold" if facts.one_vector else "What one node holds, seen alone,"
    if facts.retraining_always_stops:
        other = "what it would hold after retraining without the deleted data, noised and continued by the same rule"
    else:
        other = (
            "the exact minimiser on the retained data plus the same noise, continued by the same rule (certifier form: "
            "retraining was not proved to reach tau)"
        )
    condition = "" if facts.convex_loss else ", on the condition of premises that were not enforced"
    return f"{what} is (epsilon, delta)-indistinguishable, both ways, from {other}{condition}."


def scope_of(facts: CorrectionFacts, noise: Noise) -> tuple[str, ...]:
    """Return the threat model, one line each, the observers first."""
    if facts.one_vector:
        first = "released: observers see the models after the answer, given what was known before it, and no message"
    else:
        first = (
            "one node: observers see one and the same node's model after the answer, at most "
            f"{facts.releases} answer(s), no other node's model and no message"
        )
    if noise == "simulated":
        second = (
            "simulation only: the noise derives from the run's seed, so whoever knows the seed can subtract it; the "
            "claim is about the same run with secret noise"
        )
    else:
        second = "noise: it came from the operating system, was not stored, and nobody else saw it"
    return (
        first, second,
        "requests: they do not depend on released models; that someone was deleted, or is retained, because of an "
        "earlier release is outside the claim",
        "constants: every setting was fixed before any record that may be deleted was seen; how many records of which "
        "client were deleted is public",
    )  # fmt: skip


def view_reason_of(facts: CorrectionFacts) -> str:
    """Return why nothing is claimed about those who watch the messages."""
    if facts.fell_back:
        return "Nodes trained again after an attempt whose messages depended on models that had seen the deleted data."
    mu = facts.correction_norm / facts.sigma_drawn
    return (
        f"The noise hides the error of the correction, not the correction: v has norm {facts.correction_norm:.3g}, so "
        f"to a node that knew its own model the broadcast is a release with mu = {mu:.3g}, epsilon = "
        f"{gaussian.epsilon_of(mu, 1e-5):.3g} at delta = 1e-5; the sums that made v show still more."
    )


def limits_of(facts: CorrectionFacts, distance: float) -> tuple[str, ...]:
    """Return what the certificate does not cover."""
    lines = list(LIMITS)
    if not facts.one_vector:
        lines.insert(
            0, "Two nodes' models together: both carry the same draw, so their difference is free of noise and nothing "
            "is certified about it, for any sigma (T2).",
        )  # fmt: skip
    if facts.bound == "worst-case" and distance > SCALE:
        lines.append(
            f"A useful model: the worst-case sensitivity is {distance:.3g}, so the noise is of the size of the "
            "parameters themselves."
        )
    if not facts.first_answer:
        lines.append("The noise of earlier answers, from which this one started.")
    return tuple(lines)
