"""DP-SGD (Abadi et al. 2016) as a baseline: train once with noise, and keep the model whoever leaves.

One common vector takes all steps. In each, every record of every node enters by a coin of its own, its gradient is
clipped to norm C, the network sums up over a spanning tree, and the root adds ``N(0, (z C)^2)`` once before the sum
goes back down. Sums are divided by the expected batch of the data set before any deletion, a constant that no request
changes, so the objective is the mean over samples. The released model is differentially private, and a request for m
records is answered by doing nothing: the certificate is group privacy of size m
(:mod:`fedunlearn.privacy.claims.dp_training`).

Of ``[training]`` the method reads rounds, local_steps (steps a round, 1 if not set), lr, final_rounds, final_factor,
momentum, l2 and radius. What follows from noisy sums alone costs no privacy.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fedunlearn.data import Role
from fedunlearn.models import per_sample_gradients
from fedunlearn.network import Network, TrainingSettings
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program
from fedunlearn.network.schedule import learning_rate
from fedunlearn.network.training import Watcher, check_finite
from fedunlearn.privacy import Certificate, gaussian_noise
from fedunlearn.privacy.accounting.calibration import sampled_noise
from fedunlearn.privacy.claims.dp_training import DpTrainingFacts, certify, claimable, opinion_of
from fedunlearn.randomness import torch_seed, uniforms
from fedunlearn.requests import DeletionRequest
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Outcome, Plan, Situation
from fedunlearn.unlearning.certified.release import KeepsItsRelease, hashes_of, issue
from fedunlearn.unlearning.games import Game
from fedunlearn.unlearning.registry import MethodInfo
from fedunlearn.unlearning.sampled_game import COIN, sampled_game

_NUMBERS = 2**22
"""Entries of per-record gradients held at once by a node."""


class DpSgdSettings(Settings):
    """How records are sampled, clipped and hidden."""

    rate: float = Field(default=0.1, gt=0, le=1, description="probability of every record's coin in every step")
    clip: float = Field(default=1.0, gt=0, description="bound C on the norm of a record's gradient")
    noise_multiplier: float | None = Field(
        default=None, gt=0, description="noise on a sum over C; not set: derived from privacy and capacity"
    )
    capacity: int = Field(
        default=1, ge=1, description="deleted records, over all requests, that the derived noise covers"
    )


class DpSgd(KeepsItsRelease):
    """Trains with noise on Poisson-sampled, clipped sums; a request changes nothing but the claim."""

    keeps = ("_reached",)

    def __init__(self, settings: DpSgdSettings) -> None:
        self.settings = settings
        self._reached: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        """The vector of a training that goes on, and its velocity, (d,) each."""

    def check(self, plan: Plan) -> None:
        """Find the noise, which fails before training where there is none."""
        if plan.training.rounds:
            self._multiplier(steps_of(plan.training), plan.privacy.epsilon, plan.privacy.delta)

    def train(
        self, network: Network, situation: Situation, *, first: int = 0, every: int = 1, watch: Watcher | None = None
    ) -> None:
        """Take all steps on one common vector; rows hold it after every ``every`` rounds."""
        training, settings, privacy = situation.training, self.settings, situation.privacy
        per_round = training.local_steps or 1
        z = self._multiplier(max(1, steps_of(training)), privacy.epsilon, privacy.delta)
        coins = coin_seed(situation)
        noise_seed = torch_seed(situation.seed, "DP-SGD noise of " + situation.world)
        divisor = settings.rate * _records(network)
        theta = situation.start.astype(np.float64)
        velocity = np.zeros_like(theta)
        if first:
            assert self._reached is not None, "a training goes on with the vector that it had"
            theta, velocity = self._reached
        largest = float(network.counts[network.alive].max())
        for round_ in range(first, training.rounds):
            for step in range(round_ * per_round, (round_ + 1) * per_round):
                params = {"at": "at", "clip": settings.clip, "rate": settings.rate, "seed": coins, "step": step}
                total = network.sum(f"{__name__}:poisson_clipped_sum", params, {"at": theta})
                network.clock.compute(settings.rate * largest)
                network.charge_all_reduce("gradient")
                total += gaussian_noise(z * settings.clip, network.dim, privacy.noise, noise_seed, step)
                velocity = training.momentum * velocity + total / divisor + training.l2 * theta
                theta = theta - learning_rate(training, round_) * velocity
                if training.radius is not None:
                    theta *= min(1.0, training.radius / max(float(np.linalg.norm(theta)), 1e-300))
            done = round_ + 1
            if watch is None or done % every == 0 or done == training.rounds:
                network.write(theta.astype(np.float32))
                check_finite(network, done, training.lr)
                self._reached = theta, velocity
                if watch is not None:
                    watch(done, network)
        self._reached = None
        network.write(theta.astype(np.float32))
        network.work["gradients"] += math.ceil(settings.rate * steps_of(training))
        network.wipe()

    def unlearn(self, network: Network, request: DeletionRequest, situation: Situation) -> Outcome:
        """Release the same vector again; only the claim depends on how many records were deleted so far."""
        released = self.release_again(network, situation)
        certificate, reason = self._certificate(network, request, situation)
        details: dict[str, Any] = {"forget_count": len(network.deleted), "capacity": self.settings.capacity}
        if certificate is not None:
            opinion = opinion_of(DpTrainingFacts.from_dict(certificate.facts), certificate.delta)
            details |= {"epsilon_obtained": opinion.epsilon, "second_opinion": dict(opinion.second)}
        return Outcome(release=released, certificate=certificate, certificate_reason=reason, details=details)

    def tight_game(self, network: Network, outcome: Outcome, situation: Situation) -> Game | None:
        """Return the pair that dominates: gradients of norm C, all alike, of the deleted records; none of others.

        An observer sees the noisy sums of all steps along that gradient, drawn by the coins and the noise of training.
        """
        certificate = outcome.certificate
        if certificate is None:
            return None
        facts = DpTrainingFacts.from_dict(certificate.facts)
        game = sampled_game(
            facts.rate, facts.steps, facts.noise_multiplier, max(1, facts.forget_count), clip=facts.clip,
            noise=situation.privacy.noise,
        )  # fmt: skip
        return replace(game, sensitivity=certificate.sensitivity)

    def _multiplier(self, steps: int, epsilon: float, delta: float) -> float:
        settings = self.settings
        if settings.noise_multiplier is not None:
            return settings.noise_multiplier
        return _derived(settings.rate, steps, settings.capacity, epsilon, delta)

    def _certificate(
        self, network: Network, request: DeletionRequest, situation: Situation
    ) -> tuple[Certificate | None, str]:
        training, privacy, session = situation.training, situation.privacy, network.session
        if not training.rounds:
            return None, "none is needed: training.rounds = 0, so the model is the public start"
        facts = DpTrainingFacts(
            method="dp-sgd",
            granularity=request.level,
            sampling="poisson",
            rate=self.settings.rate,
            steps=steps_of(training),
            noise_multiplier=self._multiplier(steps_of(training), privacy.epsilon, privacy.delta),
            clip=self.settings.clip,
            forget_count=len(network.deleted),
            capacity=self.settings.capacity,
            dim=network.dim,
            clipped_every_record=True,
            fixed_divisor=True,
            fresh_draws=True,
            independent_coins=True,
            public_start=session.model.spec["checkpoint"] is None,
            steps_fixed=True,
            extractor="public" if session.features.kind == "frozen" else "none",
        )
        hashes = hashes_of(network, situation)

        def claim() -> Certificate:
            epsilon = claimable(facts, privacy.epsilon, privacy.delta)
            return certify(facts, epsilon, privacy.delta, noise=privacy.noise, hashes=hashes)

        return issue(claim)


@node_program("sum", vectors={"at": "d"})
def poisson_clipped_sum(
    block: Block, population: str, node: int, *, at: str, clip: float, rate: float, seed: int, step: int
) -> NDArray[np.float64]:
    """Return ``sum clip_C(grad l(at; z))`` over the retained records of a vertex whose coin came up, (d,) float64.

    A node program. Clipping is in float64 on whatever gradient was computed, so the bound holds for it exactly; a
    gradient that is not finite adds nothing.
    """
    positions = block.samples(population, node)
    chosen = positions[uniforms(seed, COIN, block.sample_ids(positions), step) < rate]
    dtype = torch.float64 if block.model.convex else torch.float32
    theta = block.vector(at).to(dtype)
    total = torch.zeros(block.model.dim, dtype=torch.float64, device=block.device)
    size = max(1, _NUMBERS // block.model.dim)
    for first in range(0, len(chosen), size):
        x, y = block.batch(chosen[first : first + size])
        each = per_sample_gradients(block.model, theta, x.to(dtype), y).to(torch.float64)
        norms = each.norm(dim=1)
        each[~torch.isfinite(norms)] = 0.0
        total += (each * torch.clamp(clip / norms.nan_to_num(1.0).clamp_min(1e-30), max=1.0)[:, None]).sum(0)
    return total.cpu().numpy()


def steps_of(training: TrainingSettings) -> int:
    """Return the number of steps of a recipe: rounds times local_steps, one a round where those are not set."""
    return training.rounds * (training.local_steps or 1)


def coin_seed(situation: Situation) -> int:
    """Return the key of the coins: of the run's seed, or of the operating system where noise is secret.

    Sampling amplifies privacy only while nobody knows who was sampled.
    """
    if situation.privacy.noise == "secret":
        return int.from_bytes(os.urandom(8), "little") >> 1
    return torch_seed(situation.seed, "DP-SGD coins")


def _records(network: Network) -> int:
    """Return the number of training records before any deletion."""
    dataset = network.session.dataset
    return sum(len(dataset.train_rows(int(c))) for c in dataset.clients(Role.TRAIN))


@lru_cache
def _derived(rate: float, steps: int, group: int, epsilon: float, delta: float) -> float:
    return sampled_noise(epsilon, delta, rate, steps, group=group)


METHOD = MethodInfo(
    name="dp-sgd",
    summary="train with clipped, Poisson-sampled, noised gradient sums; keep the model whoever leaves (baseline)",
    levels=("sample", "class", "client"),
    settings=DpSgdSettings,
    implementation=DpSgd,
    needs="no work at a request; a capacity fixed before training, and noise that grows with it",
    enforces="Poisson coins a record, per-record clipping, fixed divisor, fresh noise on every sum",
    certifies="differential privacy of everything released, for the group of all records deleted so far",
    under_faults="its accountant counts the rounds of every node, and an adopted model brings those of another along",
)
