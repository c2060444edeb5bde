"""Questions of ``fedunlearn certify`` about methods with a sensitivity of their own: rewinding and one correction."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedunlearn.cli.answers import Answer, AsJson, Delta, Rows, not_negative, positive, probability, tell
from fedunlearn.errors import UserError

PRESETS = ("eicu",)
FRACTIONS = (0.10, 0.36, 0.74, 0.90, 0.99)
Epsilon = Annotated[float, typer.Option("--epsilon", metavar="E", help="Epsilon, greater than 0.")]


def rewind(
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="Published constants: eicu.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="T", min=1, help="Steps of the training.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", metavar="ETA", help="Step size.")] = None,
    deleted: Annotated[float | None, typer.Option("--deleted", metavar="M", help="Deleted records.")] = None,
    total: Annotated[float | None, typer.Option("--total", metavar="N", help="All records.")] = None,
    gradient: Annotated[
        float | None, typer.Option("--gradient", metavar="G", help="Bound on every record's gradient.")
    ] = None,
    smoothness: Annotated[
        float | None, typer.Option("--smoothness", metavar="L", help="Lipschitz constant of the gradients.")
    ] = None,
    radius: Annotated[float | None, typer.Option("--radius", metavar="R", help="Projection after every step.")] = None,
    fraction: Annotated[
        list[float] | None, typer.Option("--fraction", metavar="F", help="Share of the steps rewound; may be repeated.")
    ] = None,
    sigma: Annotated[float, typer.Option("--sigma", metavar="X", help="Planned noise on every parameter.")] = 0.01,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    as_json: AsJson = False,
) -> None:
    """Rewind-to-delete, full batches: sensitivity by every bound, sigma for epsilon, epsilon at sigma, K for epsilon.

    Give --preset, or --steps, --lr, --deleted, --total and --gradient, with --smoothness and --radius where they hold.
    """
    from fedunlearn.privacy import gaussian
    from fedunlearn.privacy.accounting import rewinding

    positive(lr=lr, total=total, gradient=gradient, smoothness=smoothness, radius=radius, sigma=sigma, epsilon=epsilon)
    not_negative(deleted=deleted)
    probability(delta)
    own = (steps, lr, deleted, total, gradient)
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"--preset {preset}: must be one of {', '.join(PRESETS)}")
        if any(value is not None for value in (*own, smoothness, radius)):
            raise UserError(f"certify rewind: --preset {preset} brings its own constants, give none beside it")
        setting = rewinding.eicu()
    else:
        if steps is None or lr is None or deleted is None or total is None or gradient is None:
            raise UserError("certify rewind: needs --preset, or --steps, --lr, --deleted, --total and --gradient")
        setting = rewinding.Rewinding(steps, lr, deleted, total, gradient, smoothness, radius)
    plans = rewinding.plan(setting, fraction or FRACTIONS, epsilon, delta, sigma)
    bounds, worths = [], []
    for plan in plans:
        head: dict[str, Any] = {"rewound": f"{100 * plan.fraction:g} %", "K": plan.rewound}
        bounds.append({**head, **{row.bound.name: row.bound.value for row in plan.rows}})
        best = plan.best
        worths.append(
            {**head, "Delta": best.bound.value, "by": best.bound.name, "sigma for epsilon": best.sigma,
             "epsilon at sigma": best.epsilon, "worth": best.worth}
        )  # fmt: skip
    computed: dict[str, Any] = {}
    if setting.smoothness is not None and setting.deleted > 0:
        needed = rewinding.rewind_for(setting, sigma * gaussian.mu_of(epsilon, delta))
        computed = {"K for epsilon at sigma": needed, "share of the training": needed / setting.steps}
    notes = ["K by the bound 'own smoothness', exactly; K = T is retraining."] if computed else []
    if preset == "eicu":
        notes.append(
            "The published constants were seen in a run of minibatches, which bounds nothing: no theorem applies, and "
            "the certificate would be vacuous where its row says so."
        )
    given = {name: getattr(setting, name) for name in ("steps", "lr", "deleted", "total", "gradient", "smoothness")}
    given |= {"radius": setting.radius, "sigma": sigma, "epsilon": epsilon, "delta": delta}
    title = f"what the smallest is worth: epsilon = {epsilon:g}, delta = {delta:g}, sigma = {sigma:g}"
    tables = [Rows("largest distance to retraining, by every bound", bounds), Rows(title, worths)]
    tell(Answer("rewind", given, computed, tables, notes), as_json)


def correction(
    deleted: Annotated[int, typer.Option("--deleted", metavar="M", min=1, help="Deleted records of one client.")],
    client_records: Annotated[int, typer.Option("--client-records", metavar="NU", min=1, help="Its records.")],
    clients: Annotated[int, typer.Option("--clients", metavar="N", min=1, help="Clients.")],
    total: Annotated[int, typer.Option("--total", metavar="N", min=1, help="All records.")],
    l2: Annotated[float, typer.Option("--l2", metavar="LAMBDA", help="L2 coefficient on all parameters.")],
    tau: Annotated[float, typer.Option("--tau", metavar="TAU", help="Gradient norm at which training ends.")] = 0.0,
    consensus: Annotated[
        float, typer.Option("--consensus", metavar="C", help="Bound on a model's distance to the mean.")
    ] = 0.0,
    weighting: Annotated[str, typer.Option("--weighting", metavar="WORD", help="equal or samples.")] = "samples",
    curvature: Annotated[
        str, typer.Option("--curvature", metavar="WORD", help="auto: the exact Hessian; fisher-diagonal, ...")
    ] = "auto",
    own_data: Annotated[bool, typer.Option("--own-data", help="Curvature of one client's data alone.")] = False,
    damping: Annotated[float, typer.Option("--damping", metavar="D", help="Added to the curvature.")] = 0.0,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    as_json: AsJson = False,
) -> None:
    """One Newton/Fisher correction of softmax regression: its worst case, the noise for it, and that of its broadcast.

    The constants are those of rows of norm at most one. Beside the worst case stands what the message itself shows: who
    hears the noised correction knows the deleted data better than who sees the model alone.
    """
    from fedunlearn.privacy import gaussian
    from fedunlearn.privacy.accounting import corrections as c
    from fedunlearn.privacy.certificate import worth_of

    positive(l2=l2, epsilon=epsilon)
    not_negative(tau=tau, consensus=consensus, damping=damping)
    probability(delta)
    if weighting not in ("equal", "samples"):
        raise UserError(f"--weighting {weighting}: must be 'equal' or 'samples'")
    error = c.curvature_error(curvature, own_data, damping)
    if error is None:
        raise UserError(f"--curvature {curvature}: nothing bounds how far it is from the Hessian")
    weight = c.deleted_weight([(deleted, client_records)], clients, total, weighting)
    slope = c.retained_gradient_bound(weight, tau, gradient=c.SOFTMAX_GRADIENT)
    step = c.step_bound(slope, l2, damping=damping)
    newton, moved = c.newton_residual(step, error=error), c.moved_residual(slope, step, l2)
    residual = min(newton, moved)
    distance = c.correction_sensitivity(residual, tau, l2, consensus)
    sigma = gaussian.sigma_for(distance, epsilon, delta)
    collapsed = c.sekhari_sensitivity(
        deleted, total, l2, gradient=c.SOFTMAX_GRADIENT, lipschitz=c.SOFTMAX_HESSIAN_LIPSCHITZ
    )

    def row(what: str, sensitivity: float, noise: float) -> dict[str, Any]:
        ratio = sensitivity / noise
        obtained = gaussian.epsilon_of(ratio, delta)
        return {"what is certified": what, "sensitivity": sensitivity, "sigma": noise, "mu": ratio, "epsilon": obtained}

    rows = [
        row("one node's model", distance, sigma),
        row("the message, at that sigma", step, sigma),
        row("the message, at its own sigma", step, gaussian.sigma_for(step, epsilon, delta)),
    ]
    given: dict[str, Any] = {
        "deleted": deleted,
        "client records": client_records,
        "clients": clients,
        "total": total,
        "l2": l2,
    }
    given |= {"tau": tau, "consensus": consensus, "weighting": weighting, "curvature": curvature, "delta": delta}
    tell(
        Answer(
            "correction", given,
            {
                "weight of the deleted records": weight, "retained gradient, at most": slope,
                "norm of the correction, at most": step, "l2 x distance to the minimiser, by Newton": newton,
                "the same, by how far it moved": moved,
                "sensitivity": distance, "with exact optimum and n >= 2m (Sekhari)": collapsed,
                "worth of the message at the model's sigma": worth_of(epsilon, delta, step / sigma),
            },
            [Rows(f"noise for epsilon = {epsilon:g}", rows)],
            ["The certificate is about one node's model alone: one draw on models that differ is not jointly certified "
             "(T2). The message's claim is about what it adds to what was known, not about retraining (T-V1)."],
        ),
        as_json,
    )  # fmt: skip
