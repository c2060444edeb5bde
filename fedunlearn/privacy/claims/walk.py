"""Certificates of walks: what noise at the visits of one node is worth, in four kinds of accounting.

``retrain`` compares the last token with the same walk from a model that never saw the deleted data
(docs/certificates.md, T7 and T8) and is the only one that speaks about the trained model. ``conservative`` and
``paper`` are about what the messages add to what was known; ``network-dp`` is about a training walk with noise at every
hop. Facts in, certificate out; nothing here sees data or models. Noise and clip are in units of gradients, radii in
units of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedunlearn.privacy import gaussian
from fedunlearn.privacy.accounting.contraction import contraction_delta
from fedunlearn.privacy.accounting.hidden_routes import hidden_route_delta
from fedunlearn.privacy.accounting.transcripts import (
    contributions,
    network_dp_sigma,
    paper_sigma,
    transcript_delta,
    transcript_mu,
)
from fedunlearn.privacy.accounting.walks import walk_mu
from fedunlearn.privacy.certificate import Certificate, Kind, NoCertificate, Noise
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.privacy.claims.walk_wording import limits_of, premises_of, scope_of, theorem_of, view_of

_ROUNDING = 1 + 1e-12
"""A claim is not refused for the last bits of its noise."""

_NOT_LAST = "noise was not the last thing at visits"


@dataclass(frozen=True)
class _Finding:
    """How a claim was reached: the way, mu where it has a Gaussian profile, and the distance and noise behind it."""

    way: str
    mu: float | None
    sensitivity: float
    sigma: float
    step: int = 0


def certify(
    facts: WalkFacts, epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of one walk.

    Args:
        facts: what the walk did.
        epsilon, delta: the claim that the noise was calibrated for.
        noise: where the noise came from.
        hashes: SHA-256 hashes; ``settings.toml`` fixes the public constants, ``extractor`` and
            ``extractor_training_rows`` the features. Hashes of released models may be added later.

    Raises:
        NoCertificate: if the accounting that is asked for has no theorem for what the walk did, or the noise is too
            small for the claim.
        UserError: if epsilon or delta is out of range.
    """
    hashes = dict(hashes or {})
    kind: Kind
    if facts.accounting == "retrain":
        kind, found = "certifier", _retrain(facts, epsilon, delta)
    elif facts.accounting == "network-dp":
        kind, found = "differential-privacy", _network(facts, epsilon, delta)
    else:
        kind, found = "transcript", _transcript(facts, epsilon, delta)
    theorem, claim = theorem_of(facts, found.way)
    view, reason = view_of(facts, found.way, found.step)
    return Certificate(
        method=facts.method,
        kind=kind,
        granularity=facts.granularity,
        epsilon=epsilon,
        delta=delta,
        mu=found.mu,
        sigma=found.sigma,
        sensitivity=found.sensitivity,
        theorem=theorem,
        claim=claim,
        scope=scope_of(facts, found.way, noise),
        view=view,
        view_reason=reason,
        premises=premises_of(facts, found.way, hashes),
        constants=_constants(facts, found),
        noise=noise,
        hashes=hashes,
        limits=limits_of(facts),
        facts=facts.to_dict(),
    )


def from_facts(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str] | None = None
) -> Certificate:
    """Return the certificate of facts as :meth:`WalkFacts.to_dict` wrote them; raises as :func:`certify` does."""
    return certify(WalkFacts.from_dict(facts), epsilon, delta, noise=noise, hashes=hashes)


def _retrain(facts: WalkFacts, epsilon: float, delta: float) -> _Finding:
    _refuse_retrain(facts)
    visit = facts.lr * facts.noise
    start_radius = 0.0 if facts.start == "public" else facts.start_radius
    differ = start_radius > 0 or facts.alignment != "exact"
    if not facts.visits and not facts.route_public and differ:
        if facts.restart_probability is None or facts.alignment != "exact":
            raise NoCertificate("a hidden route is accounted with exact alignment and a known restart probability only")
        reached = hidden_route_delta(
            epsilon,
            facts.hops,
            facts.restart_probability,
            facts.clip,
            facts.lr,
            facts.noise,
            start_radius,
            local_steps=facts.local_steps,
        )
        if reached > delta * _ROUNDING:
            raise NoCertificate(
                f"over hidden routes the noise gives delta = {reached:.3g} at epsilon = {epsilon:g}, not {delta:g}"
            )
        return _Finding("hidden", None, 2 * start_radius, visit)
    coupling = walk_mu(
        facts.visits,
        facts.hops,
        facts.clip,
        facts.lr,
        facts.noise,
        start_radius,
        facts.ball_radius,
        facts.alignment,
        local_steps=facts.local_steps,
        contraction=facts.contraction,
    )
    mu, gap = coupling.mu, coupling.gaps[coupling.step]
    if _enough(mu, epsilon, delta):
        return _Finding("merge", mu, gap, gap / mu if mu > 0 else visit, coupling.step)
    if facts.ball_radius is not None and facts.alignment == "exact" and facts.visits:
        reached = contraction_delta(epsilon, 2 * facts.ball_radius / visit, len(facts.visits))
        if reached <= delta * _ROUNDING:
            return _Finding("contract", None, 2 * facts.ball_radius, visit, facts.visits[-1])
    raise NoCertificate(_too_little(facts.noise, mu, epsilon, delta))


def _refuse_retrain(facts: WalkFacts) -> None:
    if facts.trust_radius is not None:
        raise NoCertificate(
            f"visits projected onto a ball of radius {facts.trust_radius:g} around the trained model: two trained "
            "models farther apart than its diameter are told apart with certainty, whatever the noise (T8)"
        )
    for met, reason in (
        (facts.clipped_everywhere, "some gradients were not clipped, so nothing bounds how far the worlds drift apart"),
        (facts.plain_steps, "steps passed through momentum or adaptive scaling, so the clip does not bound them"),
        (
            facts.start == "public" or facts.start_projected,
            "the start was not projected onto a public ball, so nothing bounds the distance that noise has to hide",
        ),
        (facts.noise_after_step, f"{_NOT_LAST}, so what came after it may undo it"),
        (facts.maps_shared, "hops depended on more than token, retained data and public randomness"),
        (facts.noise > 0 or facts.start == "public", "no noise was added"),
    ):
        if not met:
            raise NoCertificate(f"{reason} (T8)")


def _transcript(facts: WalkFacts, epsilon: float, delta: float) -> _Finding:
    visit, step = facts.lr * facts.noise, facts.lr * facts.clip
    if facts.accounting == "paper":
        p = 1 / facts.nodes if facts.restart_probability is None else facts.restart_probability
        needed = paper_sigma(epsilon, delta, facts.hops, p, facts.nodes, facts.clip)
        if facts.noise * _ROUNDING < needed:
            raise NoCertificate(
                f"the published formula asks for noise = {needed:.6g}, and {facts.noise:.6g} was drawn at each visit"
            )
        return _Finding("paper", None, 2 * step, visit)
    for met, reason in (
        (facts.clipped_everywhere, "some gradients were not clipped"),
        (facts.plain_steps, "steps passed through momentum or adaptive scaling, so the clip does not bound them"),
        (facts.noise_after_step, _NOT_LAST),
        (facts.maps_shared, "hops that add no noise may have read deleted data"),
    ):
        if not met:
            raise NoCertificate(f"{reason}: nothing bounds what the noise of a visit has to hide")
    if not facts.visits and not facts.route_public:
        if facts.restart_probability is None:
            raise NoCertificate("a hidden route is accounted with a known restart probability only")
        reached = transcript_delta(epsilon, facts.hops, facts.restart_probability, facts.clip, facts.noise)
        if reached > delta * _ROUNDING:
            raise NoCertificate(
                f"over the number of visits the noise gives delta = {reached:.3g} at epsilon = {epsilon:g}, "
                f"not {delta:g}"
            )
        return _Finding("hidden-compose", None, step, visit)
    mu = transcript_mu(len(facts.visits), facts.clip, facts.noise)
    if not _enough(mu, epsilon, delta):
        raise NoCertificate(_too_little(facts.noise, mu, epsilon, delta))
    return _Finding("compose", mu, math.sqrt(len(facts.visits)) * step, visit)


def _network(facts: WalkFacts, epsilon: float, delta: float) -> _Finding:
    """Compose the contributions exactly if that suffices; else fall back to the published amplified constants."""
    if facts.start != "public":
        raise NoCertificate("a private training walk has to start from a public point")
    for met, reason in (
        (facts.noise_every_hop, "some hops added no noise"),
        (facts.noise_after_step, _NOT_LAST),
        (facts.clipped_everywhere, "some gradients were not clipped"),
        (facts.plain_steps, "steps passed through momentum or adaptive scaling, so the clip does not bound them"),
    ):
        if not met:
            raise NoCertificate(f"{reason}: nothing is known about a walk like this one")
    visit, step = facts.lr * facts.noise, 2 * facts.lr * facts.clip * facts.local_steps
    mu = transcript_mu(len(facts.visits), 2 * facts.clip * facts.local_steps, facts.noise)
    if _enough(mu, epsilon, delta):
        return _Finding("compose", mu, math.sqrt(len(facts.visits)) * step, visit)
    if not facts.complete_graph:
        raise NoCertificate(
            f"{_too_little(facts.noise, mu, epsilon, delta)}; amplification is known on a complete graph only"
        )
    most = contributions(facts.hops, facts.nodes)
    if len(facts.visits) > most:
        raise NoCertificate(f"{len(facts.visits)} hops were made with deleted data, the published bound covers {most}")
    group = facts.forget_count if facts.granularity == "sample" else 1
    needed = network_dp_sigma(epsilon, delta, facts.nodes, facts.hops, facts.clip * facts.local_steps, group)
    if facts.noise * _ROUNDING < needed:
        raise NoCertificate(
            f"network differential privacy for {group} deleted records asks for noise = {needed:.6g}, and "
            f"{facts.noise:.6g} was drawn at each hop"
        )
    return _Finding("network", None, step, visit)


def _enough(mu: float, epsilon: float, delta: float) -> bool:
    return mu <= gaussian.mu_of(epsilon, delta) * _ROUNDING


def _too_little(noise: float, mu: float, epsilon: float, delta: float) -> str:
    return (
        f"noise = {noise:.6g} at each visit gives mu = {mu:.6g}, but epsilon = {epsilon:g} at delta = {delta:g} needs "
        f"mu <= {gaussian.mu_of(epsilon, delta):.6g}"
    )


def _constants(facts: WalkFacts, found: _Finding) -> dict[str, float]:
    numbers: dict[str, float | None] = {
        "hops": facts.hops,
        "visits": len(facts.visits),
        "nodes": facts.nodes,
        "lr": facts.lr,
        "clip": facts.clip,
        "noise": facts.noise,
        "noise_per_visit": facts.lr * facts.noise,
        "start_radius": facts.start_radius,
        "ball_radius": facts.ball_radius,
        "trust_radius": facts.trust_radius,
        "merged_at_hop": found.step if found.way in ("merge", "contract") else None,
        "restart_probability": facts.restart_probability,
        "forgotten_share": facts.forget_count / facts.client_count if facts.alignment == "lightweight" else None,
        "dim": facts.dim,
    }
    return {name: float(number) for name, number in numbers.items() if number is not None}
