"""The question of ``fedunlearn certify`` about restart walks: one walk by every accounting, side by side."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedunlearn.cli.answers import Answer, AsJson, Delta, Rows, between, not_negative, positive, probability, tell
from fedunlearn.errors import UserError


def walk(
    hops: Annotated[int, typer.Option("--hops", metavar="T", min=1, max=100_000, help="Hops of the walk.")] = 100,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=2, help="Nodes of the complete graph.")] = 10,
    restart: Annotated[
        float | None, typer.Option("--restart", metavar="P", help="Probability of a visit; 1/N if not given.")
    ] = None,
    visits: Annotated[
        str | None, typer.Option("--visits", metavar="LIST", help="Hops with noise, such as 3,14,15; else drawn.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of the drawn route.")] = 0,
    clip: Annotated[float, typer.Option("--clip", metavar="C", help="Bound on every gradient.")] = 0.5,
    lr: Annotated[float, typer.Option("--lr", metavar="ETA", help="Step size.")] = 0.005,
    noise: Annotated[
        float | None, typer.Option("--noise", metavar="X", help="Noise of a visit, in units of gradients.")
    ] = None,
    start_radius: Annotated[
        float, typer.Option("--start-radius", metavar="C0", help="Public ball that the start is projected on.")
    ] = 1.0,
    ball: Annotated[float | None, typer.Option("--ball", metavar="R", help="Public ball at every visit.")] = None,
    local_steps: Annotated[int, typer.Option("--local-steps", metavar="K", min=1, help="Steps of other hops.")] = 1,
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="Epsilon, greater than 0.")] = 1.0,
    delta: Delta = 1e-5,
    as_json: AsJson = False,
) -> None:
    """A restart walk (RR-DU) by every accounting: the noise for epsilon, and what a given noise certifies.

    Without --noise the table takes the noise of the honest accounting. Only some rows compare with a walk from a model
    that never saw the deleted data; the others are about what the tokens of unlearning add.
    """
    from fedunlearn.privacy import NoCertificate, gaussian
    from fedunlearn.privacy.accounting import transcripts, walks

    positive(clip=clip, lr=lr, noise=noise, ball=ball, epsilon=epsilon, start_radius=start_radius)
    not_negative(restart=restart)
    between(0, 1, restart=restart)
    probability(delta)
    p = 1 / nodes if restart is None else restart
    route = _drawn(hops, p, seed) if visits is None else _hops(visits)
    rest: dict[str, Any] = {"local_steps": local_steps}
    try:
        honest = walks.sigma_for_walk(epsilon, delta, route, hops, clip, lr, start_radius, ball, **rest)
    except NoCertificate as refusal:
        raise UserError(f"certify walk: {refusal}") from None
    noise = honest if noise is None else noise
    best = walks.walk_mu(route, hops, clip, lr, noise, start_radius, ball, **rest)
    light = walks.walk_mu(route, hops, clip, lr, noise, start_radius, ball, "lightweight", **rest)
    free = walks.walk_mu(route, hops, clip, lr, noise, start_radius, **rest)  # the ball left out
    end = free.gaps[route[-1]] / free.variances[route[-1]] ** 0.5
    composed = transcripts.transcript_mu(len(route), clip, noise)

    def row(accounting: str, mu: float | None, obtained: float | None, needed: float, compared: str) -> dict[str, Any]:
        if mu is not None:
            obtained = gaussian.epsilon_of(mu, delta)
        return {
            "accounting": accounting, "mu": mu, "epsilon at this noise": obtained, "noise for epsilon": needed,
            "compares with": compared,
        }  # fmt: skip

    def merged(accounting: str, mu: float) -> dict[str, Any]:
        return row(accounting, mu, None, mu * noise / gaussian.mu_of(epsilon, delta), never)

    never, adds = "a walk that never saw the data", "what the tokens add"
    rows = [
        merged("merged at the best visit", best.mu),
        merged("merged at the last visit", end),
        merged("lightweight alignment", light.mu),
    ]
    if ball is not None:
        ratio, own = _contraction(epsilon, delta, 2 * ball / lr, noise, len(route))
        rows.append(row("contraction in the ball", None, ratio, own, never))
    rows += [
        row("composition over the visits", composed, None,
            transcripts.transcript_sigma(epsilon, delta, len(route), clip), adds),
        row("composition, quantile of the visits", None, None,
            transcripts.quantile_sigma(epsilon, delta, hops, p, clip), adds),
        row("published, with ln N / N", None, transcripts.paper_epsilon(noise, delta, hops, p, nodes, clip),
            transcripts.paper_sigma(epsilon, delta, hops, p, nodes, clip), "not proved"),
    ]  # fmt: skip
    try:
        enough: int | None = walks.hops_for(epsilon, delta, route, clip, lr, noise, start_radius, ball, **rest)
    except NoCertificate:
        enough = None
    given = {"hops": hops, "nodes": nodes, "restart": p, "clip": clip, "lr": lr, "noise": noise, "ball": ball}
    given |= {"start radius": start_radius, "local steps": local_steps, "epsilon": epsilon, "delta": delta}
    computed = {
        "visits": route,
        "noise for epsilon, best proof": honest,
        "best visit at hop": best.step,
        "hops that suffice": enough,
        "delta if the route stays hidden": walks.hidden_route_delta(
            epsilon, hops, p, clip, lr, noise, start_radius, **rest
        ),
    }
    note = (
        "Composition says nothing about what the trained model had already encoded; the published factor has no proof "
        "where other hops add no noise."
    )
    title = f"noise of a visit, in units of gradients; epsilon = {epsilon:g}, delta = {delta:g}"
    tell(Answer("walk", given, computed, [Rows(title, rows)], [note]), as_json)


def _contraction(epsilon: float, delta: float, diameter: float, noise: float, visits: int) -> tuple[float, float]:
    """Return the epsilon of a noise and the noise for epsilon by contraction, both at ``delta``."""
    from fedunlearn.privacy.accounting import Contraction, epsilon_of_events
    from fedunlearn.privacy.accounting.contraction import contraction_delta
    from fedunlearn.privacy.accounting.invert import smallest

    obtained = epsilon_of_events([Contraction(diameter / noise, visits)], delta, second=False).epsilon
    return obtained, smallest(lambda x: contraction_delta(epsilon, diameter / x, visits) <= delta, what="noise")


def _drawn(hops: int, p: float, seed: int) -> list[int]:
    """Return the visits of a route drawn from the seed: every hop is one with probability p."""
    from fedunlearn.randomness import generator

    coins = generator(seed, "route of certify walk").random(hops) < p
    return [hop for hop, coin in enumerate(coins, start=1) if coin]


def _hops(text: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UserError(f"--visits {text}: must be whole numbers with commas between them, such as 3,14,15") from None
    if not found:
        raise UserError("--visits: must name at least one hop")
    return found
