"""Planted lies: releases whose certificate is wrong in one place, each beside its honest twin.

Every pair of worlds is built from the library's own objective, solver, stopping rule, calibration and release code, and
the honest twin is the worst pair that its theorem admits. A builder returns ``(lie, honest)``; in a lie's ``claim`` is
what its certificate would say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import networkx as nx
import numpy as np
import torch
from torch.func import vmap

from fedunlearn.audit import joint_game
from fedunlearn.models import rounding_bound, softmax
from fedunlearn.network import TrainingSettings
from fedunlearn.network.schedule import slot_batches
from fedunlearn.privacy import calibrate, compose, gaussian_noise, meets_tolerance, mu_of, publish
from fedunlearn.topology import mixing_matrix
from fedunlearn.unlearning.games import Game, gaussian_game
from fedunlearn.unlearning.optimise import Stop, newton_cg

CLASSES, INPUTS, LAM = 3, 4, 0.05
EPSILON, DELTA = 1.0, 1e-5
PUBLIC = calibrate(EPSILON, DELTA, LAM)
INSIDE = 1.0 - 1e-9
"""Keeps a crafted point just inside the stopping rule, rounding bound included."""


@dataclass(frozen=True)
class Claim:
    """A game, and the claim that is made about it. ``trials`` a world refute it if it is a lie."""

    game: Game
    mu: float = PUBLIC.mu
    epsilon: float = EPSILON
    trials: int = 1000


@dataclass(frozen=True)
class Head:
    """``F(x) = sum_j w_j sum_z l(x; z) + (lam/2) ||m x||^2`` of a softmax head; ``parts``: (rows, labels) a client."""

    parts: tuple[tuple[np.ndarray, np.ndarray], ...]
    weights: tuple[float, ...]
    lam: float = LAM
    classes: int = CLASSES
    mask: np.ndarray | float = 1.0

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.data_gradient(x, self.weights) + self.lam * self.mask * x

    def data_gradient(self, x: np.ndarray, weights) -> np.ndarray:
        theta = torch.from_numpy(x)
        terms = (
            w * softmax.gradient(theta, torch.from_numpy(a), torch.from_numpy(y), self.classes).numpy()
            for w, (a, y) in zip(weights, self.parts)
        )
        return sum(terms)

    def hvp(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        theta, direction = torch.from_numpy(x), torch.from_numpy(v)
        terms = (
            w * softmax.hvp(theta, direction, torch.from_numpy(a), self.classes).numpy()
            for w, (a, _) in zip(self.weights, self.parts)
        )
        return sum(terms) + self.lam * self.mask * v

    def minimiser(self, dim: int | None = None, tau: float = 1e-13) -> np.ndarray:
        solution = newton_cg(self, np.zeros(dim or self.classes * self.parts[0][0].shape[1]), Stop(tau))
        assert solution.met
        return solution.x

    def stops(self, x: np.ndarray, tau: float) -> bool:
        """Whether the library's rule accepts x."""
        records, inputs = sum(len(y) for _, y in self.parts), self.parts[0][0].shape[1]
        e64 = rounding_bound(x, self.lam, records, inputs, self.classes)
        return meets_tolerance(float(np.linalg.norm(self.gradient(x))), tau, len(x), e64)


def equal(parts, **settings) -> Head:
    """Return the objective with equal client weights, from the retained counts."""
    return Head(tuple(parts), tuple(1 / (len(parts) * len(y)) for _, y in parts), **settings)


@lru_cache
def clients() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return six unlike clients' rows of norm one and labels."""
    random = np.random.default_rng(0)
    parts = []
    for count in (14, 9, 17, 11, 8, 12):
        a = random.normal(size=(count, INPUTS)) + 1.5 * random.normal(size=INPUTS)
        y = (a @ (3 * random.normal(size=(INPUTS, CLASSES))) + random.gumbel(size=(count, CLASSES))).argmax(1)
        parts.append((a / np.linalg.norm(a, axis=1, keepdims=True), y))
    return tuple(parts)


def retained() -> Head:
    """Return the objective after the last client left."""
    return equal(clients()[:-1])


@lru_cache
def optimum() -> np.ndarray:
    return retained().minimiser()


def unseen(dim: int = CLASSES * INPUTS, classes: int = CLASSES) -> np.ndarray:
    """Return a unit vector that moves all classes' weights alike: the data do not see it, its curvature is lam."""
    direction = np.tile(np.linspace(1.0, 2.0, dim // classes), classes)
    return direction / np.linalg.norm(direction)


def worst_pair(head: Head, x: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ``x +- (tau/lam) q``, which both meet the stopping rule and attain the sensitivity."""
    radius = (tau * INSIDE - 1e-12) / head.lam
    pair = x + radius * unseen(len(x), head.classes), x - radius * unseen(len(x), head.classes)
    assert all(head.stops(point, tau) for point in pair)
    return pair


def noised(
    name: str, pair, draw: Callable[[int, int, int], np.ndarray], sigma: float = PUBLIC.sigma, mu: float = PUBLIC.mu
) -> Game:
    """Return the game of two vectors that a release code of one's own noises: ``draw(world, trial, seed)``."""
    return joint_game(
        name, "tight", [pair[0]], [pair[1]], [sigma], mu,
        release=lambda world, trial, seed: [publish(pair[world], draw(world, trial, seed))],
    )  # fmt: skip


def fresh(sigma: float, dim: int = CLASSES * INPUTS) -> Callable[[int, int, int], np.ndarray]:
    return lambda world, trial, seed: gaussian_noise(sigma, dim, "simulated", seed, trial, node=world)


def released(name: str, pair, public=PUBLIC) -> Game:
    return gaussian_game(name, "tight", pair[0], pair[1], public.sigma, public.sensitivity)


def honest_pair() -> Claim:
    return Claim(released("worst admissible pair", worst_pair(retained(), optimum(), PUBLIC.tau)))


# --- wrong noise ------------------------------------------------------------------------------------------------------


def no_noise():
    pair = worst_pair(retained(), optimum(), PUBLIC.tau)
    return Claim(noised("no noise", pair, lambda world, trial, seed: np.zeros(len(pair[0])))), honest_pair()


def third_of_sigma():
    pair = worst_pair(retained(), optimum(), PUBLIC.tau)
    return Claim(noised("sigma/3", pair, fresh(PUBLIC.sigma / 3))), honest_pair()


def half_sigma_in_one_world():
    pair = worst_pair(retained(), optimum(), PUBLIC.tau)
    draws = fresh(PUBLIC.sigma / 2), fresh(PUBLIC.sigma)
    return Claim(noised("half sigma", pair, lambda world, *rest: draws[world](world, *rest))), honest_pair()


def sigma_from_the_measured_residual():
    """The unlearner overshoots the tolerance and adds noise for what it measured; retraining just meets it."""
    x, tau = optimum(), PUBLIC.tau
    pair = (x + 1e-3 * (worst_pair(retained(), x, tau)[0] - x), worst_pair(retained(), x, tau)[1])
    sigmas = [2 * np.linalg.norm(retained().gradient(point)) / (LAM * PUBLIC.mu) for point in pair]
    draws = [fresh(float(sigma)) for sigma in sigmas]
    return Claim(noised("measured sigma", pair, lambda world, *rest: draws[world](world, *rest))), honest_pair()


# --- wrong stopping ---------------------------------------------------------------------------------------------------


def stopping_at_ten_tau():
    x = optimum()
    far, near = worst_pair(retained(), x, 10 * PUBLIC.tau)[0], worst_pair(retained(), x, PUBLIC.tau)[1]
    return Claim(released("stopped at 10 tau", (far, near))), honest_pair()


def no_unlearning():
    """The model that was trained with the deleted client is released as it is."""
    return Claim(released("no unlearning", (equal(clients()).minimiser(), optimum()))), honest_pair()


def norm_on_the_deleted_data():
    """One record is deleted, and the unlearner tests the gradient of the data that still has it."""
    before, (a, y) = clients(), clients()[4]
    after = equal([*before[:4], (a[1:], y[1:]), before[5]])
    stopped = worst_pair(equal(before), equal(before).minimiser(), PUBLIC.tau)[0]
    pair = worst_pair(after, after.minimiser(), PUBLIC.tau)
    assert not after.stops(stopped, PUBLIC.tau)
    return Claim(released("stopped on D", (stopped, pair[1]))), Claim(released("stopped on D'", pair))


def mean_not_renormalised():
    """A client left, but the unlearner still divides by the number of clients before."""
    parts = clients()[:-1]
    stale = Head(parts, tuple(1 / (len(clients()) * len(y)) for _, y in parts))
    return Claim(released("stale weights", (stale.minimiser(), optimum()))), honest_pair()


def unregularised_bias():
    """Without L2 on the biases, raising all of them alike costs nothing and changes no gradient."""
    rows = CLASSES * INPUTS
    raised = np.concatenate([np.zeros(rows), np.ones(CLASSES)]) / math.sqrt(CLASSES)
    parts = [(a / math.sqrt(2), y) for a, y in clients()[:-1]]
    lax = equal(parts, mask=np.concatenate([np.ones(rows), np.zeros(CLASSES)]))
    x = lax.minimiser(rows + CLASSES)
    pair = x + 5 * PUBLIC.sensitivity * raised, x - 5 * PUBLIC.sensitivity * raised
    assert all(np.linalg.norm(lax.gradient(point)) <= PUBLIC.tau for point in pair)
    strict = equal(parts)
    x = strict.minimiser(rows + CLASSES)
    radius = PUBLIC.tau * INSIDE / LAM
    assert not strict.stops(x + 2 * PUBLIC.sensitivity * raised, PUBLIC.tau)
    return (
        Claim(released("bias without L2", pair)),
        Claim(released("bias with L2", (x + radius * raised, x - radius * raised))),
    )


def gossip_without_slack():
    """Some node's gossip average of the gradients is below tau; the mean of all is not."""
    parts, lam, classes = clients(), LAM, CLASSES
    count = len(parts)
    shares = tuple(1 / (count * len(y)) for _, y in parts)
    mixing = mixing_matrix(nx.cycle_graph(count), "metropolis").toarray()
    rho = np.abs(np.linalg.eigvalsh(mixing - 1 / count)).max()
    x = Head(parts, shares).minimiser()

    def seen_by(node: int, rounds: int) -> Head:
        row = np.linalg.matrix_power(mixing, rounds)[node]
        return Head(parts, tuple(float(count * r * s) for r, s in zip(row, shares)), lam, classes)

    few = [seen_by(node, 8) for node in (0, count // 2)]
    early = [head.minimiser() for head in few]
    assert all(np.linalg.norm(head.gradient(p)) <= PUBLIC.tau for head, p in zip(few, early))
    # The slack of a node's row after k rounds: rho^k Lg sqrt(sum_i (N w_i)^2), with Lg = sqrt 2 on rows of norm one.
    rounds = math.ceil(math.log(PUBLIC.tau / 20 / (math.sqrt(2) * math.sqrt(count))) / math.log(rho))
    slack = rho**rounds * math.sqrt(2) * math.sqrt(count)
    late = []
    for node, sign in ((0, 1), (count // 2, -1)):
        head = seen_by(node, rounds)
        point = head.minimiser() + sign * (PUBLIC.tau - slack) * INSIDE / lam * unseen()
        assert np.linalg.norm(head.gradient(point)) + slack <= PUBLIC.tau
        assert Head(parts, shares).stops(point, PUBLIC.tau)
        late.append(point)
    assert np.linalg.norm(late[0] - x) <= PUBLIC.tau / lam
    return Claim(released("gossip, no slack", early)), Claim(released("gossip with slack", late))


def float32_norm():
    """The rule is tested in float32, where the order of the records decides what the gradient comes to."""
    count, lam, tau = 1000, 0.1, 1e-8
    random = np.random.default_rng(0)
    labels = (random.random(count) < 0.3).astype(np.int64)
    rows = np.ones((count, 1))
    head = Head(((rows, labels),), (1 / count,), lam, 2)
    x = head.minimiser()
    hessian = np.stack([head.hvp(x, e) for e in np.eye(2)])
    across = np.array([1.0, -1.0]) / math.sqrt(2)
    found: dict[float, np.ndarray] = {}
    for _ in range(300):
        y = torch.from_numpy(random.permutation(labels))

        def gradient32(point: np.ndarray, y: torch.Tensor = y) -> np.ndarray:
            theta = torch.from_numpy(point.astype(np.float32))
            return (softmax.gradient(theta, torch.ones(count, 1), y, 2) / count + lam * theta).numpy()

        point = x + 1e-5 * random.normal(size=2)
        for _ in range(8):
            point = point - np.linalg.solve(hessian, gradient32(point).astype(np.float64))
            if float(np.linalg.norm(gradient32(point))) <= tau:
                found[float(across @ (point - x))] = point
                break
    public = calibrate(EPSILON, DELTA, lam, tau=tau)
    pair = found[max(found)], found[min(found)]
    assert not all(head.stops(point, tau) for point in pair)
    honest = released("float64 norm", worst_pair(head, x, tau), public)
    return Claim(released("float32 norm", pair, public), public.mu), Claim(honest, public.mu)


# --- several vectors --------------------------------------------------------------------------------------------------

NODES = 8


def one_model_sigma_for_eight():
    up, down = worst_pair(retained(), optimum(), PUBLIC.tau)
    joint = calibrate(EPSILON, DELTA, LAM, nodes=NODES)
    games = [
        joint_game(f"{NODES} models, {name}", "tight", [up] * NODES, [down] * NODES, [public.sigma] * NODES, PUBLIC.mu)
        for name, public in (("one model's sigma", PUBLIC), ("joint sigma", joint))
    ]
    return Claim(games[0], trials=5000), Claim(games[1], joint.mu)


def one_draw_for_unequal_models():
    up, down = worst_pair(retained(), optimum(), PUBLIC.tau)
    random = np.random.default_rng(1)
    residual = 1e-4
    worlds = []
    for centre in (up, down):
        spread = random.normal(size=(NODES, len(centre)))
        spread -= spread.mean(0)
        worlds.append(centre + residual * spread / np.linalg.norm(spread, axis=1).max())
    single = calibrate(EPSILON, DELTA, LAM, nodes=1)
    joint = calibrate(EPSILON, DELTA, LAM, nodes=NODES, consensus_bound=residual * math.sqrt(NODES))

    def shared(world: int, trial: int, seed: int):
        noise = gaussian_noise(single.sigma, len(up), "simulated", seed, trial, node=world)
        return [publish(row, noise) for row in worlds[world]]

    lie = joint_game("one draw", "tight", *worlds, [single.sigma] * NODES, single.mu, release=shared)
    honest = joint_game("own draws", "tight", *worlds, [joint.sigma] * NODES, joint.mu)
    return Claim(lie, single.mu), Claim(honest, joint.mu)


def noise_used_again():
    """Two successive releases from secret starts carry the same draw."""
    public = calibrate(EPSILON, DELTA, LAM, releases=2)
    first, second = retained(), equal(clients()[:-2])
    up_1, down_1 = worst_pair(first, optimum(), public.tau)
    up_2, down_2 = worst_pair(second, second.minimiser(), public.tau)
    crossed = [up_1, down_2], [down_1, up_2]

    def again(world: int, trial: int, seed: int):
        noise = gaussian_noise(public.sigma, len(up_1), "simulated", seed, trial, node=world)
        return [publish(vector, noise) for vector in crossed[world]]

    sigmas = [public.sigma] * 2
    return (
        Claim(joint_game("noise used again", "tight", *crossed, sigmas, public.mu, release=again), public.mu),
        Claim(joint_game("fresh noise", "tight", [up_1, up_2], [down_1, down_2], sigmas, public.mu), public.mu),
    )


# --- rewinding and walks ----------------------------------------------------------------------------------------------


def batch_mean_over_the_realised_count():
    """Rewinding replays the schedule over ids; a mean over what is left in a batch moves further than the theorem says.

    Clipped gradients of the deleted and the retained records oppose each other on all of the path, so the recursion
    ``d <- (1 - eta lam) d + eta G m_t/b`` before the rewind point, ``(1 - eta lam) d`` after it, is attained.
    """
    epsilon, count, deleted = 5.0, 40, 6
    eta, lam, clip, steps, rewound = 0.1, 0.1, 0.1, 60, 12
    labels = torch.from_numpy((np.arange(count) >= deleted).astype(np.int64))
    rows = torch.ones(count, 1, dtype=torch.float64)
    training = TrainingSettings(rounds=steps, local_steps=1, batch=8, schedule="holes", lr=eta, l2=lam, clip=clip)

    def run(x: np.ndarray, kept: np.ndarray, first: int, last: int, fixed: bool) -> np.ndarray:
        for step in range(first, last):
            ((batch, slots),) = slot_batches(0, 0, np.arange(count), kept, training, step)
            gradient = np.zeros_like(x)
            if len(batch):
                each = softmax.per_sample_gradients(torch.from_numpy(x), rows[batch], labels[batch], 2).numpy()
                each *= np.minimum(1.0, clip / np.linalg.norm(each, axis=1, keepdims=True))
                gradient = each.sum(0) / (slots if fixed else len(batch))
            x = x - eta * (gradient + lam * x)
        return x

    everything, kept = np.ones(count, bool), np.arange(count) >= deleted
    bound = 0.0
    for step in range(steps):
        ((batch, slots),) = slot_batches(0, 0, np.arange(count), everything, training, step)
        source = eta * clip * int((~kept)[batch].sum()) / slots if step < steps - rewound else 0.0
        bound = (1 - eta * lam) * bound + source
    mu = mu_of(epsilon, DELTA)
    claims = []
    for fixed in (False, True):
        checkpoint = run(np.zeros(2), everything, 0, steps - rewound, fixed)
        unlearned = run(checkpoint, kept, steps - rewound, steps, fixed)
        retrained = run(np.zeros(2), kept, 0, steps, fixed)
        name = f"mean over the {'fixed' if fixed else 'realised'} count"
        claims.append(Claim(gaussian_game(name, "tight", unlearned, retrained, bound / mu, bound), mu, epsilon))
    return claims[0], claims[1]


def _walk_game(
    name: str, starts, sigma: float, hops: int, every: int, eta: float, clip: float, trust: float | None
) -> Game:
    """Return the game of a token that walks from two starts over retained clients; every ``every``-th hop adds noise.

    With ``trust`` the token is pulled back into the ball of that radius around where it started, after every hop.
    """
    parts = [(torch.from_numpy(a), torch.from_numpy(y)) for a, y in clients()[:-1]]

    def draw(world: int, trials: int, seed: int) -> np.ndarray:
        dim = len(starts[world])
        reference = torch.from_numpy(starts[world])
        token = reference.repeat(trials, 1)
        for hop in range(1, hops + 1):
            a, y = parts[hop % len(parts)]
            each = vmap(lambda theta, a=a, y=y: softmax.per_sample_gradients(theta, a, y, CLASSES))(token)
            each = each * torch.clamp(clip / each.norm(dim=2, keepdim=True).clamp_min(1e-30), max=1.0)
            token = token - eta * each.mean(1)
            if hop % every == 0:
                flat = gaussian_noise(eta * sigma, trials * dim, "simulated", seed, hop, node=world)
                token = token + torch.from_numpy(flat).reshape(trials, dim)
            if trust is not None:
                offset = token - reference
                token = reference + offset * torch.clamp(trust / offset.norm(dim=1, keepdim=True), max=1.0)
        return token.float().double().numpy()

    return Game(name, "tight", draw, None)


def _walk_sigma(mu: float, start_radius: float, hops: int, every: int, eta: float, clip: float) -> float:
    """Return the sigma for which ``min over noisy hops t of B_t/sqrt(V_t)`` is mu (docs/certificates.md T8)."""
    visits = range(every, hops + 1, every)
    best = min((2 * start_radius + 2 * eta * clip * t) / (eta * math.sqrt(k + 1)) for k, t in enumerate(visits))
    return best / mu


def _trained_starts(radius: float) -> list[np.ndarray]:
    """Return the models trained with and without the last client, brought into the public ball around zero."""
    models = [equal(clients(), lam=1e-3).minimiser(), equal(clients()[:-1], lam=1e-3).minimiser()]
    return [x * min(1.0, radius / float(np.linalg.norm(x))) for x in models]


def trust_region_around_the_trained_model():
    """However large the noise, the token cannot leave the neighbourhood of a model that remembers."""
    hops, every, eta, clip, radius = 20, 2, 0.1, 0.1, 2.0
    sigma = _walk_sigma(PUBLIC.mu, radius, hops, every, eta, clip)
    starts = _trained_starts(radius)
    trust = 0.4 * float(np.linalg.norm(starts[0] - starts[1]))
    walks = [_walk_game(name, starts, sigma, hops, every, eta, clip, ball)
             for name, ball in (("trust region", trust), ("no trust region", None))]  # fmt: skip
    return Claim(walks[0]), Claim(walks[1])


def transcript_sold_as_retraining():
    """Noise that hides the leaver's steps within one walk does not hide that the walk began at a trained model."""
    hops, every, eta, clip, radius = 20, 2, 0.1, 0.1, 2.0
    visits = hops // every
    within = compose([2 * clip] * visits) / PUBLIC.mu
    whole = _walk_sigma(PUBLIC.mu, radius, hops, every, eta, clip)
    opposite = [radius * unseen(), -radius * unseen()]
    walks = [_walk_game(name, opposite, sigma, hops, every, eta, clip, None)
             for name, sigma in (("noise for the transcript", within), ("noise for the start", whole))]  # fmt: skip
    return Claim(walks[0]), Claim(walks[1])


LIES: dict[str, Callable[[], tuple[Claim, Claim]]] = {
    "no noise": no_noise,
    "sigma/3": third_of_sigma,
    "half sigma in one world": half_sigma_in_one_world,
    "sigma from the measured residual": sigma_from_the_measured_residual,
    "stopping at 10 tau": stopping_at_ten_tau,
    "no unlearning": no_unlearning,
    "norm of the wrong data set": norm_on_the_deleted_data,
    "retained mean not renormalised": mean_not_renormalised,
    "unregularised bias": unregularised_bias,
    "gossip norm without slack": gossip_without_slack,
    "norm in float32": float32_norm,
    "8 models, one model's sigma": one_model_sigma_for_eight,
    "8 models, one draw": one_draw_for_unequal_models,
    "noise used again": noise_used_again,
    "batch mean over the realised count": batch_mean_over_the_realised_count,
    "trust region around the trained model": trust_region_around_the_trained_model,
    "transcript sold as retrain-equivalence": transcript_sold_as_retraining,
}
