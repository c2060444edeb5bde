"""The sentences of a tolerance certificate: premises with their statuses, scope, view and limits, from a run's facts.

Kept apart from the arithmetic so that each sentence can be read, and argued about, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedunlearn.privacy.certificate import Noise, Premise
from fedunlearn.privacy.claims.tolerance_facts import RunFacts

LIMITS = (
    "What releases and messages before the request revealed about the deleted data.",
    "The fact that a request was made, and the timing and number of messages, which outsiders may see.",
    "The people who stay: unlearning is not differential privacy of training, and whoever kept an earlier release can "
    "compare it with this one and see the deleted data's effect.",
    "Nodes that do not follow the protocol, or keep what they were told to erase.",
    "The measured numbers in the certificate's own file, such as norms of gradients and corrections: they come from "
    "noise-free vectors and carry no noise, so a file that goes to strangers should go without its facts.",
    "The low-order bits of floating-point noise, which are not those of an ideal Gaussian; the release is rounded to "
    "float32 to hide most of them.",
)


def theorem_of(facts: RunFacts) -> tuple[str, str]:
    """Return the name of the statement that applies, and what it claims in one sentence."""
    parts = ["T1 (tolerance certificate)"]
    if facts.release == "per-node":
        parts.append(f"T2 (joint release of {facts.nodes} models, independent draws)")
    if facts.start == "released":
        parts.append("T5.3 (restart from the release: no loss over later requests)")
    elif facts.start == "secret":
        parts.append(f"T5.2 (restart from noise-free models: sqrt({facts.releases}) over {facts.releases} releases)")
    what = "What is released" if facts.release != "per-node" else f"The joint release of all {facts.nodes} models"
    if facts.retraining_always_stops:
        other = "what retraining without the deleted data, stopped and noised by the same public rule, would release"
    else:
        other = (
            "the exact minimiser on the retained data plus the same noise, which never depended on the deleted data "
            "(certifier form: retraining was not proved to reach the tolerance)"
        )
    return ", ".join(parts), f"{what} is (epsilon, delta)-indistinguishable, both ways, from {other}."


def premises_of(facts: RunFacts, hashes: Mapping[str, str], value: float, smallest_tau: float) -> tuple[Premise, ...]:
    """Return the premises of the theorem; ``value`` is the proved bound on the gradient norm."""
    premises = [
        _strong_convexity(facts),
        _tolerance(facts, value, smallest_tau),
        _rounding(facts),
        _premise(
            "retained objective",
            facts.retained_objective,
            "the tested gradient was that of the retained data, weighted by retained counts",
            "nothing showed that the tested gradient was that of the retained data, weighted by retained counts",
        ),
        _premise(
            "single draw",
            facts.fresh_draw,
            "the noise was drawn for this release and used once",
            "nothing prevented the noise from serving another release too",
        ),
    ]
    if facts.release == "per-node":
        residual, bound = f"{facts.consensus_residual:.3e}", f"{facts.consensus_bound:.3e}"
        detail = f"models deviate from their mean by {residual}, within the bound {bound} fixed beforehand"
        premises.append(Premise("independent draws", "enforced", f"{detail}, and each node drew its own noise"))
    else:
        whose = "the model of every node that took part" if facts.away else "every node's model"
        detail = f"{whose} was overwritten by the one released vector"
        premises.append(Premise("one vector", "enforced", detail))
    if facts.start != "secret":
        premises.append(
            _premise(
                "state erased",
                facts.state_erased,
                "noise-free vectors, noise and all that was derived from deleted data were overwritten",
                "noise-free vectors or values derived from deleted data may still be stored",
            )
        )
    premises.append(_features(facts, hashes))
    premises.append(
        _premise(
            "public settings",
            "settings.toml" in hashes,
            "lam, tau, noise scale and all other settings are those of the settings file with the recorded hash",
            "no hash of the settings was recorded",
        )
    )
    return tuple(premises)


def scope_of(facts: RunFacts, noise: Noise) -> tuple[str, ...]:
    """Return the threat model, one line each, beginning with who the observers are."""
    if facts.start == "secret":
        lines = [
            f"released: observers see only what is released after the request, at most {facts.releases} releases, and "
            "the stored noise-free models stay secret"
        ]
    else:
        lines = [
            "released: observers see only what is released after the request, this release and all later ones, given "
            "what was known before it",
            f"state: the same holds for those who also obtain all that {_who(facts)} afterwards, except the "
            "retained data",
        ]
    if facts.away:
        lines.append(
            f"away: {facts.away} of the nodes took no part; whoever was away holds a model from before the request "
            "until it adopts another, for good if it never returns, and nothing is claimed about that"
        )
    if noise == "simulated":
        lines.append(
            "simulation only: the noise derives from the run's seed, so whoever knows the seed can subtract it; the "
            "claim is about the same run with secret noise"
        )
    else:
        lines.append("noise: it came from the operating system, was not stored, and nobody else saw it")
    lines.append(
        "requests: they do not depend on released models; that someone was deleted, or is retained, because of an "
        "earlier release is outside the claim"
    )
    lines.append("constants: every setting was fixed before any record that may be deleted was seen")
    return tuple(lines)


def _who(facts: RunFacts) -> str:
    return f"the {facts.nodes} nodes that took part store" if facts.away else "the network stores"


def view_of(facts: RunFacts) -> tuple[str, str]:
    """Return what holds for observers of the messages of unlearning, and why."""
    if not facts.retained_messages_only:
        return "none", "Messages sent during unlearning may have been computed from deleted data."
    if facts.start == "secret":
        return "none", (
            "The search started from noise-free models, which depend on the deleted data and reach new eyes in its "
            "messages."
        )
    if facts.start == "public":
        return "T-V0", (
            "The search started from a public point and read retained data only: messages and releases have the same "
            "law as in retraining, (0, 0) for every observer."
        )
    return "T-V2", (
        "Given the last release, all messages are functions of it, the retained data and public or fresh randomness: "
        "they add (0, 0) about the deleted data to what that release had shown; those who had not seen it are covered "
        "by T1 for the new release."
    )


def limits_of(facts: RunFacts) -> tuple[str, ...]:
    """Return what the certificate does not cover."""
    if facts.start == "secret":
        return (*LIMITS, "What the network stores: the noise-free models still depend on the deleted data.")
    return LIMITS


def _strong_convexity(facts: RunFacts) -> Premise:
    if facts.convex_loss and facts.l2_on_all_parameters:
        detail = f"the loss is convex and the L2 term of lam = {facts.lam:g} covers all {facts.dim} parameters"
        return Premise("strong convexity", "enforced", detail)
    if not facts.convex_loss:
        detail = f"the loss is not convex in the parameters; strong convexity with lam = {facts.lam:g} is only supposed"
    else:
        detail = f"the L2 term of lam = {facts.lam:g} does not cover all {facts.dim} parameters"
    return Premise("strong convexity", "assumed", detail)


def _tolerance(facts: RunFacts, value: float, smallest_tau: float) -> Premise:
    detail = f"gradient norm {facts.gradient_norm:.3e}, at most {value:.3e} with all rounding, tau = {facts.tau:.3e}"
    if facts.gradient_dtype != "float64":
        return Premise(
            "tolerance", "measured", f"{detail}, but seen in {facts.gradient_dtype}, where nothing is proved"
        )
    if not value <= facts.tau:
        return Premise("tolerance", "measured", f"{detail}: the norm is below tau, its bound is not")
    if facts.tau < smallest_tau:
        return Premise("tolerance", "measured", f"{detail}, which is below the smallest provable one, {smallest_tau:g}")
    return Premise("tolerance", "enforced", f"{detail}, in float64 at the vector that was noised")


def _rounding(facts: RunFacts) -> Premise:
    if facts.rounding_bound is None:
        return Premise("rounding bound", "assumed", "no bound on the rounding of the gradient is known for this loss")
    bound = f"the gradient's rounding error is at most {facts.rounding_bound:.1e}"
    if facts.softmax_loss and facts.features_bounded:
        return Premise(
            "rounding bound", "enforced", f"{bound} (T3: softmax head, every feature row of norm at most one)"
        )
    missing = "the loss is not a softmax head" if not facts.softmax_loss else "feature rows were not scaled to norm one"
    return Premise("rounding bound", "assumed", f"{bound} if T3 applied, but {missing}")


def _features(facts: RunFacts, hashes: Mapping[str, str]) -> Premise:
    if facts.extractor == "none":
        return Premise("public features", "enforced", "features are a fixed rule of each record alone")
    if facts.extractor == "public" and {"extractor", "extractor_training_rows"} <= set(hashes):
        detail = "the extractor and its training records are recorded by hash, and none of them belongs to a client"
        return Premise("public features", "enforced", detail)
    return Premise(
        "public features", "assumed", "nothing shows that the extractor never saw records that may be deleted"
    )


def _premise(name: str, enforced: bool, yes: str, no: str) -> Premise:
    return Premise(name, "enforced" if enforced else "assumed", yes if enforced else no)
