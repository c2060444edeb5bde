"""Questions of ``fedunlearn certify`` about noise between steps: model clipping, and noisy descent."""

from __future__ import annotations

from typing import Annotated

import typer

from fedunlearn.cli.answers import Answer, AsJson, Delta, Rows, not_negative, positive, probability, tell
from fedunlearn.errors import UserError

Start = Annotated[
    float, typer.Option("--start-radius", metavar="C0", help="Radius of the public ball that starts are projected on.")
]


def contraction(
    ratio: Annotated[float | None, typer.Option("--ratio", metavar="R", help="Diameter over noise of a step.")] = None,
    radius: Annotated[float | None, typer.Option("--radius", metavar="C", help="Models are clipped to it.")] = None,
    sigma: Annotated[float | None, typer.Option("--sigma", metavar="X", help="Noise of a step.")] = None,
    drift: Annotated[float, typer.Option("--drift", metavar="S", help="2 lr clip of a step in between.")] = 0.0,
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="Epsilon, held fixed.")] = 1.0,
    delta: Delta = 1e-5,
    steps: Annotated[int, typer.Option("--steps", metavar="K", min=1, max=1000, help="Steps to show.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Model clipping: delta after every step at a fixed epsilon, and the steps that reach a delta.

    Every step pulls the model into a ball of radius C and adds noise of deviation X, so the worlds are at most 2C + S
    apart before the noise; --ratio gives (2C + S)/X directly.
    """
    from fedunlearn.privacy.accounting.contraction import contraction_delta, contraction_steps

    positive(ratio=ratio, radius=radius, sigma=sigma, epsilon=epsilon)
    not_negative(drift=drift)
    probability(delta)
    if (ratio is None) == (radius is None or sigma is None):
        raise UserError("certify contraction: needs either --ratio, or --radius and --sigma")
    if ratio is None:
        assert radius is not None and sigma is not None
        ratio = (2 * radius + drift) / sigma
    needed = contraction_steps(epsilon, delta, ratio)
    rows, reached = [], 1.0
    for step in range(1, min(steps, needed or steps) + 1):
        reached = contraction_delta(epsilon, ratio, 1, start_delta=reached)
        rows.append({"step": step, "delta": reached})
    notes = ["The claim is about the one pair (epsilon, delta); no Gaussian profile stands behind it."]
    if needed is None:
        notes.append("No useful number of steps reaches this delta: use more noise or a smaller ball.")
    tell(
        Answer(
            "contraction", {"ratio": ratio, "epsilon": epsilon, "delta": delta}, {"steps needed": needed},
            [Rows(f"delta at epsilon = {epsilon:g}", rows)], notes,
        ),
        as_json,
    )  # fmt: skip


def iteration(
    start_radius: Start,
    steps: Annotated[int, typer.Option("--steps", metavar="T", min=1, max=1_000_000, help="Noisy steps.")],
    lr: Annotated[float, typer.Option("--lr", metavar="ETA", help="Step size.")],
    clip: Annotated[float, typer.Option("--clip", metavar="C1", help="Bound on the gradient of a step.")],
    sigma: Annotated[float | None, typer.Option("--sigma", metavar="X", help="Noise after each step.")] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", metavar="E", help="Target, for the sigma.")] = None,
    delta: Delta = 1e-5,
    l2: Annotated[float, typer.Option("--l2", metavar="L", help="Decay: a step shrinks models by 1 - lr l2.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Clipped noisy descent from two starts: mu of the last state, the best step to merge at, the sigma for epsilon.

    Give --sigma or --epsilon. Both worlds start in a public ball of radius C0 and take the same T steps on retained
    data, each along a gradient clipped to C1, with noise after every step (docs/certificates.md, T7).
    """
    from fedunlearn.privacy import gaussian
    from fedunlearn.privacy.accounting.iteration import renyi_of, shifted_coupling
    from fedunlearn.privacy.certificate import worth_of

    positive(start_radius=start_radius, lr=lr, clip=clip, sigma=sigma, epsilon=epsilon)
    not_negative(l2=l2)
    probability(delta)
    if (sigma is None) == (epsilon is None):
        raise UserError("certify iteration: needs exactly one of --sigma and --epsilon")
    if lr * l2 >= 1:
        raise UserError(f"--l2 {l2:g}: lr l2 must be below 1, so that a step shrinks the model")
    drifts, factors = [2 * lr * clip] * steps, [1 - lr * l2] * steps
    if sigma is None:
        assert epsilon is not None
        unit = shifted_coupling(2 * start_radius, drifts, [1.0] * steps, factors)
        sigma = gaussian.sigma_for(unit.mu, epsilon, delta)
    coupling = shifted_coupling(2 * start_radius, drifts, [sigma] * steps, factors)
    end = coupling.gaps[-1] / coupling.variances[-1] ** 0.5
    obtained = gaussian.epsilon_of(coupling.mu, delta)
    tell(
        Answer(
            "iteration",
            {"start radius": start_radius, "steps": steps, "lr": lr, "clip": clip, "l2": l2, "delta": delta},
            {
                "sigma": sigma, "mu": coupling.mu, "merged at step": coupling.step, "mu at the end alone": end,
                "epsilon": obtained, "epsilon at the end alone": gaussian.epsilon_of(end, delta),
                "Renyi divergence of order 2": renyi_of(coupling.mu, 2.0),
                "worth": worth_of(obtained, delta, coupling.mu),
            },
            notes=["Steps after the best one do not improve the bound, and cost nothing."],
        ),
        as_json,
    )  # fmt: skip
