"""Training that is private towards the network from the start (DDP): a baseline that has nothing left to unlearn.

A token walks over a complete graph, every hop to a uniformly random node, and every hop adds noise to a clipped
gradient step (Cyffers and Bellet, "Privacy amplification by decentralization", AISTATS 2022). Whoever is deleted later
was protected all along, so a request changes no model; the price is noise that grows with the number of records that
may be deleted together. *published* calibrates by the constants of that paper's experiments, spotted contributions
included, for single observers of a hidden route; *composed* by exact composition of a node's contributions, which
holds for everybody.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.network import Network
from fedunlearn.network.training import Watcher
from fedunlearn.privacy import Noise, PrivacySettings
from fedunlearn.privacy.accounting.transcripts import contributions, network_dp_sigma, transcript_sigma
from fedunlearn.privacy.claims.walk_facts import WalkFacts
from fedunlearn.randomness import torch_seed
from fedunlearn.requests import DeletionRequest
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Outcome, Plan, Situation
from fedunlearn.unlearning.certified.release import KeepsItsRelease
from fedunlearn.unlearning.certified.routes import Route, uniform_route
from fedunlearn.unlearning.certified.token_walk import noisy_step
from fedunlearn.unlearning.certified.walk_release import certified, rounded
from fedunlearn.unlearning.games import Game
from fedunlearn.unlearning.registry import MethodInfo

_HOP = "fedunlearn.unlearning.certified.token_walk:private_hop"
NOT_DEFINED = (
    "its theorem is about a walk that jumps to every node with the same probability, and one node's contributions"
)
_BOUNDED_GRADIENT = 2.0**0.5
"""Norm of a softmax head's gradient on rows of norm at most one: a larger clip never acts."""


class DdpSettings(Settings):
    """The private walk."""

    hops: int = Field(default=100, ge=1, description="noisy hops T of the training walk")
    lr: float | None = Field(default=None, gt=0, description="step size; training.lr by default")
    clip: float = Field(default=1.0, gt=0, description="bound C on the norm of every record's gradient")
    noise: float | None = Field(
        default=None, gt=0, description="sigma, in units of gradients; derived from (epsilon, delta) by default"
    )
    calibration: Literal["published", "composed"] = Field(
        default="published", description="published: amplified, linear in capacity; composed: exact, for everybody"
    )
    capacity: int = Field(default=1, ge=1, description="published: records that may be deleted together")


class Ddp(KeepsItsRelease):
    """Trains by a walk with noise at every hop; a request changes nothing but the claim."""

    keeps = ("_token",)

    def __init__(self, settings: DdpSettings) -> None:
        self.settings = settings
        self._token: NDArray[np.float64] | None = None
        """The token of a training that goes on, (d,)."""

    def check(self, plan: Plan) -> None:
        """Refuse a graph on which the walk is not defined, and steps that pass zero."""
        _check_graph(plan.graph, np.ones(plan.nodes, dtype=bool))
        lr, l2 = self.settings.lr or plan.training.lr, plan.training.l2
        if lr * l2 > 1:
            raise UserError(
                f"unlearning.lr = {lr:g} with training.l2 = {l2:g} takes the L2 term's step past zero (allowed: "
                "lr l2 <= 1)"
            )

    def train(
        self, network: Network, situation: Situation, *, first: int = 0, every: int = 1, watch: Watcher | None = None
    ) -> None:
        """Walk T hops from the public start; of the recipe, ``lr`` and ``l2`` count.

        The rounds of the recipe cut the walk into equal parts: rows hold the token after every ``every`` of them.
        """
        _check_graph(network.graph, network.alive)
        s, training, rounds = self.settings, situation.training, max(1, situation.training.rounds)
        lr = s.lr or training.lr
        route = self._route(network, situation.seed)
        noise = self._noise(len(_actors(network)), situation.privacy)
        params = {
            "lr": lr, "noise": noise, "clip": s.clip, "l2": training.l2,
            "silent": sorted(_silent(route, len(_actors(network)))), "noise_kind": situation.privacy.noise,
            "noise_seed": torch_seed(situation.seed, "private walk of " + situation.world),
        }  # fmt: skip
        token, done = situation.start.astype(np.float64), s.hops * first // rounds
        if first:
            assert self._token is not None, "a training goes on with the token that it had"
            token = self._token
        for round_ in range(first + 1, rounds + 1):
            if round_ % every and round_ != rounds:
                continue
            end = s.hops * round_ // rounds
            part = route.part(done, end)
            home = part.then_to(network.root, network.graph) if round_ == rounds else part
            token = network.walk(_HOP, {**params, "first": done}, token, home.moves)
            network.clock.compute(float(sum(network.counts[v] for v in part.stops)))
            network.work["gradients"] += len(part.stops)
            done = end
            network.write(rounded(token, lr))
            self._token = token
            if watch is not None:
                watch(round_, network)
        self._token = None
        network.broadcast(rounded(token, lr))
        network.wipe()

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Release the same vector again; only the claim depends on who was deleted so far."""
        released = self.release_again(network, situation)
        certificate, reason = certified(self._facts(network, request, situation), situation, network)
        details = {"forget_count": len(network.deleted), "capacity": self.settings.capacity}
        return Outcome(release=released, certificate=certificate, certificate_reason=reason, details=details)

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return the walk whose deleted data pull with all their might in opposite directions, seen by everybody.

        Only for the exact composition: what single observers of a hidden route see has no instance near the bound.
        """
        certificate = outcome.certificate
        if certificate is None or not certificate.mu:  # 0: the token never was where the deleted data are
            return None
        return private_game(WalkFacts.from_dict(certificate.facts), situation.privacy.noise)

    # --- public numbers ----------------------------------------------------------------------------------------------

    def _route(self, network: Network, seed: int) -> Route:
        return uniform_route(_actors(network), self.settings.hops, seed, 0)

    def _noise(self, nodes: int, privacy: PrivacySettings) -> float:
        s = self.settings
        if s.noise is not None:
            return s.noise
        if s.calibration == "composed":
            return transcript_sigma(privacy.epsilon, privacy.delta, contributions(s.hops, nodes), 2 * s.clip)
        return _published(privacy.epsilon, privacy.delta, nodes, s.hops, s.clip, s.capacity)

    def _facts(self, network: Network, request: DeletionRequest, situation: Situation) -> WalkFacts:
        """Return the facts of the training walk, which took place before anybody was deleted."""
        s, session, training = self.settings, network.session, situation.training
        lr = s.lr or training.lr
        rows = [session.dataset.train_rows(int(c)) for c in session.dataset.clients(Role.TRAIN)]
        trained = [v for v, ids in enumerate(rows) if len(ids)]
        route = uniform_route(trained, s.hops, situation.seed, 0)
        touched = {v for v in trained if np.isin(rows[v], network.deleted).any()}
        silent = _silent(route, len(trained))
        visits = tuple(h for h, v in enumerate(route.stops, start=1) if v in touched and h not in silent)
        bounded = session.model.convex and session.features.kind != "raw" and s.clip >= _BOUNDED_GRADIENT
        return WalkFacts(
            method="ddp", granularity=request.level,  # type: ignore[arg-type]
            accounting="network-dp", alignment="exact", hops=s.hops, visits=visits, nodes=len(trained), lr=lr,
            clip=s.clip, noise=self._noise(len(trained), situation.privacy),
            start="public" if session.model.spec["checkpoint"] is None else "secret",
            start_radius=0.0, start_projected=False, ball_radius=None, trust_radius=None, route_public=True,
            noise_after_step=True, clipped_everywhere=True, plain_steps=True, maps_shared=True, fresh_draw=True,
            state_erased=True, forget_count=max(1, len(network.deleted)),
            client_count=max(1, sum(len(rows[v]) for v in touched)), dim=network.dim,
            extractor="public" if session.features.kind == "frozen" else "none",
            contraction=1.0 - lr * training.l2, complete_graph=True, noise_every_hop=True,
            convex_smooth=bounded and lr * (0.5 + training.l2) <= 2.0,
        )  # fmt: skip


def private_game(facts: WalkFacts, noise: Noise) -> Game:
    """Return the pair that composition allows for: at every visit, gradients of norm C in opposite directions.

    An observation is the mean over visits of what each added to the token, whose noise is that of one hop over
    sqrt(visits): the likelihood ratio.
    """
    count, step = len(facts.visits), facts.lr * facts.clip

    def draw(world: int, trials: int, seed: int) -> NDArray[np.float64]:
        pull = np.full((trials, 1), facts.clip if world == 0 else -facts.clip)
        key = torch_seed(seed, "private walk game", world)
        hops = [
            noisy_step(
                np.zeros_like(pull), pull, h, lr=facts.lr, l2=0.0, noise=facts.noise, noise_kind=noise, noise_seed=key
            )
            for h in facts.visits
        ]
        return np.mean(hops, axis=0)

    scale = np.sqrt(count)
    return Game(
        "opposite gradients at every hop of one node, all tokens seen", "tight", draw, lambda seen: seen[:, 0],
        2 * step * scale, 2 * step * scale, facts.lr * facts.noise,
    )  # fmt: skip


def _actors(network: Network) -> list[int]:
    return [int(v) for v in np.flatnonzero(network.alive & (network.counts > 0))]


def _silent(route: Route, nodes: int) -> set[int]:
    """Return the hops, from 1, at which a node has used up the contributions that the accountant allows for."""
    stops = route.stops
    most = contributions(len(stops), nodes)
    seen: dict[int, int] = {}
    silent = set()
    for hop, v in enumerate(stops, start=1):
        seen[v] = seen.get(v, 0) + 1
        if seen[v] > most:
            silent.add(hop)
    return silent


def _check_graph(graph: nx.Graph | None, alive: NDArray[np.bool_]) -> None:
    if graph is None:
        return
    for a, b in combinations([int(v) for v in np.flatnonzero(alive)], 2):
        if not graph.has_edge(a, b):
            raise UserError(
                f"topology: nodes {a} and {b} are not joined, and 'ddp' is not defined on such a graph: {NOT_DEFINED} "
                "(allowed: topology.generator = 'complete')"
            )


@lru_cache
def _published(epsilon: float, delta: float, nodes: int, hops: int, clip: float, group: int) -> float:
    return network_dp_sigma(epsilon, delta, nodes, hops, clip, group)


METHOD = MethodInfo(
    name="ddp",
    summary="train by a walk on a complete graph with noise at every hop; keep the model whoever leaves (baseline)",
    levels=("sample", "client"),
    settings=DdpSettings,
    implementation=Ddp,
    needs="no work at a request; a complete graph, and noise that grows with the capacity fixed before training",
    certifies="differential privacy of the walk: composed, for everybody; published, for single observers (assumed)",
    enforces="clipped gradients, noise at every hop, a cap on every node's contributions",
    networks=("decentralized",),
    not_defined=NOT_DEFINED,
    under_faults="the token's route would lead over nodes that are away",
)
