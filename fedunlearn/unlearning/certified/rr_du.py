"""Unlearning by a restart walk (RR-DU; Lamri and Maniatakos, arXiv 2512.08443), and what its certificates are worth.

A token leaves with the trained model, returns to one node with probability p at every hop, and is noised there; the
other nodes take descent steps on what they retain. The last token is released to everybody. Routing never enters the
noisy node by chance, so its visits have rate p; the route is drawn first and is the same in every world.

*retrain* (default; docs/certificates.md T8): the start is projected onto a public ball, every gradient is clipped, the
noise comes after the step, and there is no trust region: the last token is compared with that of the same walk from a
model that never saw the deleted data. *conservative*: the noisy steps are composed as if everybody saw them; the claim
is about what the walk adds to the trained model, not about retraining. *paper*: the published calibration, whose
amplification by ln N/N has no proof where other hops add no noise, with the published order of noise and projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.network import Network
from fedunlearn.network.population import FLOAT32
from fedunlearn.privacy import PrivacySettings
from fedunlearn.privacy.accounting.transcripts import paper_sigma, transcript_sigma
from fedunlearn.privacy.accounting.walks import sigma_for_walk
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.randomness import torch_seed
from fedunlearn.requests import DeletionRequest
from fedunlearn.unlearning.base import Outcome, Plan, Situation, Unlearner
from fedunlearn.unlearning.certified import walk_games
from fedunlearn.unlearning.certified.routes import Route, restart_route
from fedunlearn.unlearning.certified.rr_du_settings import RestartWalkSettings, refuse_undefined
from fedunlearn.unlearning.certified.token_walk import project
from fedunlearn.unlearning.certified.walk_release import certified, rounded
from fedunlearn.unlearning.games import Game
from fedunlearn.unlearning.registry import MethodInfo

_HOP = "fedunlearn.unlearning.certified.token_walk:restart_hop"
_ATTEMPTS = 1000

NOT_DEFINED = (
    "the walk needs peers to go to; its transcript is accounted for one node's deletion, and the step on deleted "
    "samples for a node that keeps others"
)

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class _Walk:
    """All that is public about one answer's walk, and where it starts."""

    route: Route
    facts: WalkFacts
    params: dict[str, Any]
    centre: Vector
    number: int

    def way(self, network: Network) -> Route:
        """Return the route, and on from its end to the root, which broadcasts."""
        return self.route.then_to(network.root, network.graph)


class RestartWalk(Unlearner):
    """Answers a request by one walk of a token that starts from the trained (or the last released) model."""

    keeps = ("_last",)
    keeps_classes = (_Walk, Route, WalkFacts)
    rebuilds = ("_neighbours", "_ahead")  # noted of a request that is answered as a whole, or again from before it

    def __init__(self, settings: RestartWalkSettings) -> None:
        self.settings = settings
        self._neighbours: list[int] = []
        self._ahead: tuple[_Walk, Vector | None] | None = None
        self._last: _Walk | None = None

    def check(self, plan: Plan) -> None:
        """Refuse what no theorem covers."""
        refuse_undefined(self.settings, plan, NOT_DEFINED)

    def conclude(self, network: Network, situation: Situation) -> Outcome:
        """End the training: the mean of the rows is the trained model. Nothing is released."""
        return Outcome(
            noise_free=network.mean(), certificate_reason="the training of this method ends without a release"
        )

    def observe(self, network: Network, request: DeletionRequest, situation: Situation) -> None:
        """Note the leaver's neighbours; with lightweight alignment walk now, while the deleted samples can be read."""
        self._neighbours, self._ahead = [], None
        if request.leaves:
            self._neighbours = sorted(int(v) for v in network.graph.neighbors(request.leaves[0]))
        if self.settings.alignment == "lightweight":
            chosen = self._plan(network, request, situation, [int(i) for i in request.sample_ids])
            self._ahead = chosen, self._answer(network, chosen, situation)

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Walk, release the last token, overwrite every row by it, and certify."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            chosen = self._plan(network, request, situation)
            token = self._answer(network, chosen, situation)
        else:
            chosen, token = ahead
        self._last = chosen

        def drawn() -> NDArray[np.float32]:
            assert token is not None, "nobody walks where the token is stored"
            return rounded(token, chosen.params["lr"])

        released = situation.noised(drawn)
        situation.persist(released)
        network.broadcast(released)
        network.wipe()
        facts = chosen.facts
        certificate, reason = certified(facts, situation, network)
        return Outcome(
            release=released, certificate=certificate, certificate_reason=reason,
            details={
                "noise": facts.noise, "noise_per_parameter": facts.lr * facts.noise, "visits": len(facts.visits),
                "hops": facts.hops, "node": chosen.route.node, "moves": len(chosen.route.moves) - 1,
            },
        )  # fmt: skip

    # --- controls and games ----------------------------------------------------------------------------------------

    def junk_start(self, network: Network, situation: Situation) -> Callable[[], Outcome] | None:
        """Return the last answer's walk from the public start; None where it read samples that are gone."""
        chosen = self._last
        if chosen is None or chosen.facts.accounting != "retrain" or chosen.facts.alignment != "exact":
            return None

        def attempt() -> Outcome:
            token = self._go(network, chosen, chosen.centre, _seed(situation))
            return Outcome(release=rounded(token, chosen.params["lr"]))

        return attempt

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return two starts at opposite ends of the public ball, whose gradients push them apart until the first visit.

        None where the drift after that is more than a tenth of the claimed gap: maps that both worlds share cannot
        push worlds apart that are already mixed, and the bound allows for what no walk does.
        """
        chosen = self._last
        if chosen is None or outcome.certificate is None or chosen.facts.accounting != "retrain":
            return None
        return walk_games.tight(chosen.facts, chosen.params, self._prepared)

    def natural_game(
        self, network: Network, before: Outcome, outcome: Outcome, retrained: Outcome, situation: Situation
    ) -> Game | None:
        """Return the walks from the trained and from the retrained model, on the retained data.

        The first is the model as it was before anybody left: the mean over all nodes, leavers included. Only what is
        claimed is played: None for transcripts (see :meth:`retrain_game`).
        """
        if self._last is None or self._last.facts.accounting != "retrain":
            return None
        return self.retrain_game(network, before, retrained, situation)

    def retrain_game(self, network: Network, before: Outcome, retrained: Outcome, situation: Situation) -> Game | None:
        """Return the last answer's walk from two starts, under any accounting; None where it read deleted samples.

        A transcript certificate that is taken for one about retraining is refuted here.
        """
        chosen = self._last
        if chosen is None or chosen.facts.alignment != "exact":
            return None
        starts = [self._prepared(_model(o), chosen.centre) for o in (before, retrained)]

        def run(tokens: NDArray[np.float64], start: Vector, seed: int, *, noisy: bool) -> NDArray[np.float64]:
            walked = chosen if noisy else replace(chosen, params={**chosen.params, "noise": 0.0})
            return self._go(network, walked, tokens, seed, reference=start)

        return walk_games.natural(chosen.facts, starts, run, network.wipe)

    # --- the walk --------------------------------------------------------------------------------------------------

    def _plan(
        self, network: Network, request: DeletionRequest, situation: Situation, forget: list[int] | None = None
    ) -> _Walk:
        """Draw the route and fix every number, from settings, ids and counts of retained samples."""
        s, training = self.settings, situation.training
        lr = s.lr or training.lr
        actors = [int(v) for v in np.flatnonzero(network.alive & (network.counts > 0))]
        node = self._noisy_node(request, actors)
        restart = s.restart or 1.0 / len(actors)
        route = _visiting_route(network, node, actors, s.hops, restart, situation.seed, request.number)
        before = int(network.counts[node]) + (
            0 if forget is not None or request.node != node else len(request.sample_ids)
        )
        facts = WalkFacts(
            method="rr-du", granularity=request.level,  # type: ignore[arg-type]
            accounting=s.accounting, alignment=s.alignment, hops=s.hops, visits=route.visits, nodes=len(actors),
            lr=lr, clip=s.clip, noise=s.noise or 0.0,
            start="secret" if situation.previous_release is None else "released",
            start_radius=s.start_radius, start_projected=s.accounting == "retrain", ball_radius=s.ball_radius,
            trust_radius=s.trust_radius, route_public=True,
            noise_after_step=s.accounting != "paper" or s.trust_radius is None, clipped_everywhere=True,
            plain_steps=s.optimiser == "sgd", maps_shared=True, fresh_draw=True, state_erased=True,
            forget_count=max(1, len(request.sample_ids)), client_count=max(1, before), dim=network.dim,
            # A session refuses an extractor that saw a client's row, so whatever runs here is public.
            extractor="public" if network.session.features.kind == "frozen" else "none",
            local_steps=s.local_steps, contraction=1.0 - lr * training.l2, restart_probability=restart,
        )  # fmt: skip
        if s.noise is None:
            facts = replace(facts, noise=_least_noise(facts, situation.privacy))
        params = {
            "visited": node, "lr": lr, "noise": facts.noise, "clip": s.clip, "l2": training.l2,
            "minibatches": s.minibatches, "batch": s.batch, "local_steps": s.local_steps, "optimiser": s.optimiser,
            "noise_first": s.accounting == "paper", "ball": s.ball_radius, "trust": s.trust_radius,
            "batch_seed": torch_seed(situation.seed, "walk minibatches", request.number),
            "noise_kind": situation.privacy.noise, "forget": forget,
        }  # fmt: skip
        return _Walk(route, facts, params, situation.start.astype(np.float64), request.number)

    def _noisy_node(self, request: DeletionRequest, actors: list[int]) -> int:
        """Return the node that adds noise: the one that asks, while it keeps samples; else one that stays.

        The leaver's neighbour of smallest id that has samples, or where there is none, and for a class, the node of
        smallest id that has. All of it follows from public ids.
        """
        if request.level == "sample" and request.node in actors:
            return int(request.node)
        close = [v for v in self._neighbours if v in actors] if request.level != "class" else []
        return min(close or actors)

    def _start(self, network: Network, situation: Situation) -> Vector:
        """Return the model that the token sets out with: the last release, or the mean of the trained rows."""
        last = situation.previous_release
        model = network.mean(phase_cost=True) if last is None else last.astype(np.float64)
        return self._prepared(model, situation.start.astype(np.float64))

    def _prepared(self, model: Vector, centre: Vector) -> Vector:
        if self.settings.accounting != "retrain":
            return model
        return project(model[None], centre, self.settings.start_radius)[0]

    def _answer(self, network: Network, chosen: _Walk, situation: Situation) -> Vector | None:
        """Return the token that answers; None where an interrupted run has stored what its own came to.

        Nobody walks then, for a walk without noise would show the vertices what the stored token hides; what the walk
        took follows from its public route, and is charged.
        """
        if situation.kept("release") is None:
            return self._go(network, chosen, self._start(network, situation), _seed(situation))
        if situation.previous_release is None:
            network.charge_all_reduce("model", FLOAT32)
        _charge_work(network, chosen)
        network.charge_walk(chosen.way(network).moves)
        return None

    def _go(
        self, network: Network, chosen: _Walk, token: NDArray[np.float64], seed: int, reference: Vector | None = None
    ) -> NDArray[np.float64]:
        """Carry a token (d,), or tokens (k, d), along the route and on to the root, which broadcasts."""
        vectors = {}
        if chosen.params["ball"] is not None:
            vectors["centre"] = chosen.centre
        if chosen.params["trust"] is not None:
            vectors["reference"] = token if reference is None else reference
        params = {**chosen.params, "noise_seed": torch_seed(seed, "walk noise", chosen.number)}
        _charge_work(network, chosen)
        return network.walk(_HOP, params, token, chosen.way(network).moves, vectors)


def _charge_work(network: Network, chosen: _Walk) -> None:
    """Charge the gradients of a walk, which follow from its route and the counts of samples."""
    here = [min(int(network.counts[v]), _samples_of(chosen, v)) for v in chosen.way(network).stops]
    network.clock.compute(float(sum(here)))
    network.work["gradients"] += len(here)


def _seed(situation: Situation) -> int:
    return torch_seed(situation.seed, "restart walk of " + situation.world, situation.release)


def _samples_of(chosen: _Walk, node: int) -> int:
    """Return the most samples a hop reads: all at the noisy node, ``s`` minibatches a step elsewhere."""
    p = chosen.params
    return 2**62 if node == p["visited"] else p["local_steps"] * p["minibatches"] * p["batch"]


def _visiting_route(
    network: Network, node: int, actors: list[int], hops: int, restart: float, seed: int, number: int
) -> Route:
    """Return the first route, in a public order of draws, that visits the node: without noise nothing is certified.

    The choice depends on the routes alone, so both worlds make it.
    """
    for attempt in range(_ATTEMPTS):
        route = restart_route(network.graph, node, actors, hops, restart, seed, number, attempt)
        if route.visits:
            return route
    raise UserError(
        f"unlearning.hops = {hops} with restart = {restart:g} hardly ever visits the noisy node (allowed: more hops, "
        "or a larger probability)"
    )


def _least_noise(facts: WalkFacts, privacy: PrivacySettings) -> float:
    """Return the least noise with which the claim (epsilon, delta) holds on this route."""
    if facts.accounting == "paper":
        assert facts.restart_probability is not None
        return paper_sigma(
            privacy.epsilon, privacy.delta, facts.hops, facts.restart_probability, facts.nodes, facts.clip
        )
    if facts.accounting == "conservative":
        return transcript_sigma(privacy.epsilon, privacy.delta, len(facts.visits), facts.clip)
    return sigma_for_walk(
        privacy.epsilon, privacy.delta, facts.visits, facts.hops, facts.clip, facts.lr, facts.start_radius,
        facts.ball_radius, facts.alignment, local_steps=facts.local_steps, contraction=facts.contraction,
    )  # fmt: skip


def _model(outcome: Outcome) -> Vector:
    model = outcome.release if outcome.noise_free is None else outcome.noise_free
    assert model is not None
    return model.astype(np.float64)


METHOD = MethodInfo(
    name="rr-du",
    summary="a token walks over the network, returns to the node that deletes, and is noised there (RR-DU)",
    levels=("sample", "class", "client"),
    settings=RestartWalkSettings,
    implementation=RestartWalk,
    needs="peers on a graph; noise that grows with start_radius + lr clip hops (retrain accounting)",
    certifies="retrain: the same walk from a retrained model (T8); conservative, paper: what the walk adds, no more",
    enforces="projected start, clipped gradients, noise after the step at every visit, a route drawn beforehand",
    networks=("decentralized",),
    not_defined=NOT_DEFINED,
    under_faults="the walk's route would lead over nodes that are away",
)
