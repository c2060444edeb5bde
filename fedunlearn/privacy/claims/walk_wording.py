"""The sentences of a walk's certificate: premises with their statuses, scope, view and limits, from the facts.

Kept apart from the arithmetic so that each sentence can be read, and argued about, in one place.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedunlearn.privacy.certificate import Noise, Premise
from fedunlearn.privacy.claims.tolerance_wording import LIMITS, _premise
from fedunlearn.privacy.claims.walk_facts import WalkFacts

NOT_RETRAINING = (
    "Not retrain-equivalence: noise is weighed against one step at the visited node, while the trained model, which "
    "depends on the deleted data, is given to both worlds.",
    "With exact alignment that step reads retained data only, so its noise hides nothing but what the token brings "
    "along; with lightweight alignment its sensitivity grows with the share of deleted records up to the clip.",
)
"""Why a transcript certificate does not say that the model is as if the deleted data had never been there."""

NOT_PUBLISHED = (
    "A trust region around the trained model rules out any comparison with retraining: two trained models farther "
    "apart than its diameter send messages with no point in common, and noise before that projection ends on spheres "
    "that meet at most in a set of probability zero.",
    "Amplification by iteration needs noise after the sensitive step, but the other hops of this walk add none: the "
    "factor ln N / N is published without a step that yields it.",
    "Where the noise is longer than the radius of the trust region, each visit replaces the token by a random point of "
    "a sphere around the trained model; where steps pass through momentum or adaptive scaling, the clip does not bound "
    "them.",
    "The bound on gradients is a premise of the formula; a clip or radius chosen by a search that saw the deleted data "
    "is itself a release.",
    "The number of visits is random and the formula takes its mean; a walk with more visits says more.",
)
"""What stands between the published restart-walk certificate and a proof (Lamri and Maniatakos, arXiv 2512.08443)."""


NOT_GATHERED = (
    "The messages by which the nodes' models came together before the token set out: each carries models without noise."
)
"""What a start that is the mean of noise-free models takes, and no claim about tokens covers."""


def theorem_of(facts: WalkFacts, way: str) -> tuple[str, str]:
    """Return the name of the statement that applies, and what it claims in one sentence.

    ``way`` is how the number was found: ``merge``, ``contract``, ``hidden``, ``compose``, ``paper`` or ``network``.
    """
    same_walk = (
        "what the same walk (same route, same batches, steps of the same bounds) would have released from a model "
        "trained without the deleted data"
    )
    name = {
        "merge": "T8 (walk of a token), T7 (shifted coupling"
        + (", least over prefixes)" if facts.alignment == "exact" else ", taut string up to the last visit)"),
        "contract": "T8 (walk of a token), T-contraction (public ball at every visit)",
        "hidden": "T8 (walk of a token, expectation over hidden routes), T7 (shifted coupling)",
        "compose": "exact composition of Gaussian steps",
        "hidden-compose": "exact composition of Gaussian steps, expectation over the number of visits",
        "paper": "Corollary 5.2 of arXiv 2512.08443 (published, not proved)",
        "network": "network differential privacy of Cyffers and Bellet (2022), constants of its experiments",
    }[way]
    if facts.accounting == "retrain":
        return name, f"The last token is (epsilon, delta)-indistinguishable, both ways, from {same_walk}."
    if facts.accounting == "network-dp":
        who = "Everything that is ever shown" if way == "compose" else "What any other single node sees of the walk"
        return name, (
            f"{who} is (epsilon, delta)-indistinguishable, both ways, from what it would be had the nodes that held "
            "the deleted data walked with any other data, or none, in its place."
        )
    return name, (
        "Given all that was known before the request, the tokens of the walk are (epsilon, delta)-indistinguishable, "
        "both ways, from those of a walk that takes no step along the deleted data at its visits."
    )


def premises_of(facts: WalkFacts, way: str, hashes: Mapping[str, str]) -> tuple[Premise, ...]:
    """Return the premises of the theorem and how they were met."""
    premises = [
        _premise(
            "bounded steps",
            facts.clipped_everywhere and facts.plain_steps,
            f"every step was {facts.lr:g} times a gradient clipped to {facts.clip:g}, without momentum or scaling",
            "steps passed through momentum or adaptive scaling"
            if facts.clipped_everywhere
            else "not every gradient that was followed was clipped",
        ),
        _premise(
            "single draw",
            facts.fresh_draw,
            "every visit drew noise of its own and used it once",
            "nothing prevented a draw from serving twice",
        ),
    ]
    if facts.accounting == "network-dp":
        premises.append(
            _premise(
                "noise at every hop",
                facts.noise_every_hop,
                "every hop added noise to its step",
                "some hops added no noise",
            )
        )
    else:
        premises.append(
            _premise(
                "shared maps",
                facts.maps_shared,
                "apart from the steps at visits, hops were functions of token, retained data and public randomness",
                "hops may have depended on deleted data, or on a route or batches that the other world does not share",
            )
        )
    if facts.accounting == "retrain":
        premises += _retrain_premises(facts)
    if way.startswith("hidden"):
        detail = f"each hop is a visit with probability {facts.restart_probability:g}, independent of all data"
        premises.append(Premise("law of the route", "enforced", detail))
    if way == "paper":
        premises += [
            Premise("amplification ln N / N", "assumed", "other hops add no noise, so nothing is known to amplify"),
            Premise("number of visits", "assumed", f"{len(facts.visits)} visits were made, the formula takes the mean"),
        ]
    if way == "network":
        premises.append(Premise("amplification by decentralization", "assumed", _network_gaps(facts)))
    premises.append(_features(facts, hashes))
    premises.append(
        _premise(
            "public settings",
            "settings.toml" in hashes,
            "clip, step size, noise, hops, radii and all other settings are those of the file with the recorded hash",
            "no hash of the settings was recorded",
        )
    )
    return tuple(premises)


def scope_of(facts: WalkFacts, way: str, noise: Noise) -> tuple[str, ...]:
    """Return the threat model, one line each, beginning with who the observers are."""
    if facts.accounting == "retrain":
        lines = [
            "released: observers see only what is released after the request, this release and all later ones, given "
            "what was known before it",
            "state: the same holds for those who also obtain all that the network stores afterwards, except the "
            "retained data",
        ]
    elif way == "network":
        lines = ["network: each other node by itself sees the tokens it receives, not the route, and no final release"]
    elif facts.accounting == "network-dp":
        lines = ["everyone: observers see every token and every release, and know the route"]
    else:
        lines = ["transcript: observers see every token of the walk, and know the trained model it started from"]
    if noise == "simulated":
        lines.append(
            "simulation only: the noise derives from the run's seed, so whoever knows the seed can subtract it; the "
            "claim is about the same run with secret noise"
        )
    else:
        lines.append("noise: it came from the operating system, was not stored, and nobody else saw it")
    if way.startswith("hidden"):
        lines.append("route: nobody learns where the token went; whoever does is outside the claim")
    lines.append(
        "requests: they do not depend on released models; that someone was deleted, or is retained, because of an "
        "earlier release is outside the claim"
    )
    lines.append("constants: every setting was fixed before any record that may be deleted was seen")
    return tuple(lines)


def view_of(facts: WalkFacts, way: str, step: int) -> tuple[str, str]:
    """Return what holds for observers of the messages, and why; ``step`` is the hop at which the worlds are merged."""
    if facts.accounting != "retrain":
        if way == "network":
            return "none", "The published bound is about single nodes of a hidden walk and was not proved for this run."
        return "transcript", "The claim is about the tokens themselves: every message of the walk is in it."
    if facts.alignment == "exact" and facts.start == "public":
        return "T-V0", (
            "The walk started from a public point and read retained data only: messages and release have the same law "
            "as without the deleted data, (0, 0) for every observer."
        )
    if facts.alignment == "exact" and facts.start == "released":
        return "T-V2", (
            "Given the last release, all tokens are functions of it, the retained data and public or fresh randomness: "
            "they add (0, 0) about the deleted data to what that release had shown."
        )
    opening = sum(1 for number, hop in enumerate(facts.visits, start=1) if number == hop)
    if not way.startswith("hidden") and 0 < step <= opening:
        return "T8", (
            f"The worlds are merged within the first {opening} hops, which the token spent at the node that adds the "
            "noise: every message that left it later is covered by the same claim. Those by which the start came "
            "together, before it set out, are not."
        )
    return "none", (
        "The token travels before enough noise was added: whoever sees it on the way sees more than its last state."
    )


def limits_of(facts: WalkFacts) -> tuple[str, ...]:
    """Return what the certificate does not cover."""
    if facts.accounting == "retrain":
        return LIMITS
    gathering = (NOT_GATHERED,) if facts.start == "secret" else ()
    if facts.accounting == "paper":
        return (*NOT_RETRAINING, *NOT_PUBLISHED, *gathering, *LIMITS)
    if facts.accounting == "conservative":
        return (*NOT_RETRAINING, *gathering, *LIMITS)
    return (
        "A network without the node: routes would differ; the claim compares with the same network and other data.",
        "The fact that a request was made, and the timing and number of messages, which outsiders may see.",
        *LIMITS[3:],
    )


def _retrain_premises(facts: WalkFacts) -> list[Premise]:
    public = facts.start == "public"
    where = "the walk started from a public point" if public else f"the start lay in a ball of {facts.start_radius:g}"
    detail = f"{where} around a public point, by projection"
    return [
        Premise("public start" if public else "projected start", "enforced", where if public else detail),
        Premise("noise last", "enforced", "at visits noise came after the step and after every projection"),
        Premise("no trust region", "enforced", "no projection was centred at the trained model"),
        _premise(
            "state erased",
            facts.state_erased,
            "tokens, noise and all that was derived from deleted data were overwritten by the release",
            "tokens, noise or values derived from deleted data may still be stored",
        ),
    ]


def _network_gaps(facts: WalkFacts) -> str:
    reasons = ["the published constants spend delta more than once"]
    if not facts.convex_smooth:
        reasons.append("steps are not known to be non-expansive")
    if facts.route_public:
        reasons.append("the route is public")
    reasons.append("the last token is released to everyone")
    return "; ".join(reasons)


def _features(facts: WalkFacts, hashes: Mapping[str, str]) -> Premise:
    if facts.extractor == "none":
        return Premise("public features", "enforced", "features are a fixed rule of each record alone")
    if facts.extractor == "public" and {"extractor", "extractor_training_rows"} <= set(hashes):
        detail = "the extractor and its training records are recorded by hash, and none of them belongs to a client"
        return Premise("public features", "enforced", detail)
    return Premise(
        "public features", "assumed", "nothing shows that the extractor never saw records that may be deleted"
    )
