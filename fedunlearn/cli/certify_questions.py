"""Questions of ``fedunlearn certify`` about releases: over time, from samples, about groups, and about starts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedunlearn.cli.answers import Answer, AsJson, Delta, Rows, between, positive, probability, tell
from fedunlearn.errors import UserError

Count = Annotated[int, typer.Option("--count", metavar="R", min=1, max=1_000_000, help="Releases, one a request.")]


def releases(
    count: Count,
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="Epsilon of each release alone.")] = 1.0,
    delta: Delta = 1e-5,
    below: Annotated[
        float | None, typer.Option("--below", metavar="B", help="Keep every leaver below this epsilon.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What each person who left is still promised after all later releases, for both ways to start an answer.

    From noise-free models releases compose; from what was released last nothing does (docs/certificates.md, T5).
    """
    from fedunlearn.privacy import gaussian
    from fedunlearn.privacy.accounting.requesters import factor_below, leaver

    positive(epsilon=epsilon, below=below)
    probability(delta)
    target = epsilon if below is None else below
    mus = [gaussian.mu_of(epsilon, delta)] * count
    rows = []
    for request in sorted({1, (count + 3) // 4, (count + 1) // 2, (3 * count + 3) // 4, count}):
        secret, released = (leaver(mus, request, delta, start) for start in ("secret", "released"))
        rows.append(
            {"left at request": request, "releases since": secret.releases, "epsilon, secret starts": secret.epsilon,
             "epsilon, restart from the release": released.epsilon}
        )  # fmt: skip
    factor = factor_below(mus, target, delta)
    tell(
        Answer(
            "releases",
            {"releases": count, "epsilon of each": epsilon, "delta": delta, "below": target},
            {
                "sigma factor, secret starts": max(1.0, factor),
                "sigma factor, restart from the release": max(1.0, factor_below(mus, target, delta, "released")),
            },
            [Rows(f"epsilon at delta = {delta:g} after all releases", rows)],
            ["The factor multiplies the noise of every release, so that all who left stay below that epsilon."],
        ),
        as_json,
    )  # fmt: skip


def sampled(
    rate: Annotated[float, typer.Option("--rate", metavar="Q", help="Probability of a record's coin in a step.")],
    steps: Annotated[int | None, typer.Option("--steps", metavar="T", min=1, help="Noisy steps.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option("--noise-multiplier", metavar="Z", help="Noise on a sum, in units of the clip.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option("--epsilon", metavar="E", help="Epsilon.")] = None,
    delta: Delta = 1e-5,
    group: Annotated[
        int | None, typer.Option("--group", metavar="M", min=1, help="Deleted records, together; 1 if not given.")
    ] = None,
    sampling: Annotated[str, typer.Option("--sampling", metavar="WORD", help="How records enter a step.")] = "poisson",
    as_json: AsJson = False,
) -> None:
    """DP-SGD with Poisson sampling: epsilon, or the noise, the steps, or the number of deleted records for an epsilon.

    Give two of --steps, --noise-multiplier and --epsilon: the third is computed. Give all three: the largest group of
    deleted records that keeps the claim. The loss distribution (PLD) decides; Renyi and PRV accountants stand beside.
    """
    from fedunlearn.privacy import accounting

    positive(rate=rate, noise_multiplier=noise_multiplier, epsilon=epsilon)
    between(0, 1, rate=rate)
    probability(delta)
    missing = (steps, noise_multiplier, epsilon).count(None)
    if missing > 1 or (missing == 0 and group is not None):
        raise UserError(
            "certify sampled: needs two of --steps, --noise-multiplier and --epsilon, or all three and no --group"
        )
    m = group or 1
    accounting.sampled_gaussian(1.0, rate, 1, sampling=sampling)  # refuses every other way to sample
    if missing == 0:
        assert steps is not None and noise_multiplier is not None and epsilon is not None
        asked, m = "group", accounting.sampled_capacity(epsilon, delta, rate, noise_multiplier, steps)
        computed: dict[str, Any] = {"group": m}
    elif epsilon is None:
        asked, computed = "epsilon", {}
    elif noise_multiplier is None:
        assert steps is not None
        asked, noise_multiplier = "noise multiplier", accounting.sampled_noise(epsilon, delta, rate, steps, group=m)
        computed = {asked: noise_multiplier}
    else:
        asked = "steps"
        steps = accounting.sampled_steps(epsilon, delta, rate, noise_multiplier, group=m)
        computed = {asked: steps}
    given = {"rate": rate, "steps": steps, "noise multiplier": noise_multiplier, "epsilon": epsilon, "delta": delta}
    given = {key: value for key, value in {**given, "group": m}.items() if key != asked}
    assert steps is not None and noise_multiplier is not None
    if not (m and steps):
        notes = ["Not even one keeps the claim."]
    else:
        event = accounting.sampled_gaussian(noise_multiplier, rate, steps, group=m, sampling=sampling)
        opinion = accounting.epsilon_of_events([event], delta)
        computed |= {"epsilon": opinion.epsilon, "decided by": opinion.accountant}
        computed |= {f"second opinion, {name}": value for name, value in opinion.second.items()}
        notes = []
    tell(Answer("sampled", given, computed, notes=notes), as_json)


def group(
    records: Annotated[int, typer.Option("--records", metavar="M", min=1, help="Records deleted together.")],
    epsilon: Annotated[float, typer.Option("--epsilon", metavar="E", help="Epsilon of one record.")] = 1.0,
    delta: Delta = 1e-5,
    below: Annotated[
        float | None, typer.Option("--below", metavar="B", help="Largest group that stays below this epsilon.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a Gaussian certificate for one record is worth for several: m times the sensitivity, not the pair's rule."""
    from fedunlearn.privacy import gaussian
    from fedunlearn.privacy.accounting import groups

    positive(epsilon=epsilon, below=below)
    probability(delta)
    mu = gaussian.mu_of(epsilon, delta)
    rows = []
    for m in sorted({1, 2, 3, 5, 10, 30, 100, records}):
        if m <= records:
            pair = groups.group_of_pair(epsilon, delta, m)
            rows.append(
                {"records": m, "mu": groups.group_mu(mu, m), "epsilon": groups.group_epsilon(mu, m, delta),
                 "epsilon from the pair": pair[0], "delta from the pair": min(1.0, pair[1])}
            )  # fmt: skip
    computed = {} if below is None else {"largest group": groups.capacity(mu, below, delta)}
    tell(
        Answer(
            "group",
            {"records": records, "epsilon": epsilon, "delta": delta, "below": below},
            computed,
            [Rows(f"a group of records under noise for one, epsilon at delta = {delta:g}", rows)],
            ["Tolerance certificates need none of this: they hold for any number of deleted records (T1)."],
        ),
        as_json,
    )


def start(
    epsilon: Annotated[float | None, typer.Option("--epsilon", metavar="E", help="Epsilon of the certificate.")] = None,
    mu: Annotated[float | None, typer.Option("--mu", metavar="MU", help="Its Gaussian privacy number instead.")] = None,
    delta: Delta = 1e-5,
    as_json: AsJson = False,
) -> None:
    """How much of a score a certificate lets come from the trained model at all (docs/certificates.md, T6).

    Without options: a table of epsilons. A certificate that hides where unlearning started holds for a junk start too,
    so no score in [0, 1], such as accuracy, can differ between the two by more than this.
    """
    from fedunlearn.privacy import gaussian
    from fedunlearn.privacy.certificate import worth_of

    positive(epsilon=epsilon, mu=mu)
    probability(delta)
    if epsilon is not None and mu is not None:
        raise UserError("certify start: needs at most one of --epsilon and --mu")
    if mu is not None:
        pairs = [(gaussian.epsilon_of(mu, delta), mu)]
    else:
        asked = (0.1, 0.5, 1.0, 3.0, 5.0, 8.0, 10.0) if epsilon is None else (epsilon,)
        pairs = [(value, gaussian.mu_of(value, delta)) for value in asked]
    rows = [
        {"epsilon": value, "mu": number, "points of a score": 100 * gaussian.delta_of(number, 0.0),
         "worth": worth_of(value, delta, number)}
        for value, number in pairs
    ]  # fmt: skip
    note = (
        "Run the junk start beside every certificate for a model that is not convex: what it reaches on its own is "
        "what unlearning has to beat."
    )
    title = "most that the trained model can help over a junk start, in points of 100"
    tell(Answer("start", {"delta": delta}, {}, [Rows(title, rows)], [note]), as_json)
