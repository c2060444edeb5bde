"""The settings of the restart walk, and where it is not defined."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedunlearn.errors import UserError, listed
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Plan


class RestartWalkSettings(Settings):
    """The walk, its steps, and what is to be certified."""

    accounting: Literal["retrain", "conservative", "paper"] = Field(
        default="retrain", description="retrain: against the same walk from a retrained model; others: transcript only"
    )
    alignment: Literal["exact", "lightweight"] = Field(
        default="exact", description="at the noisy node: down the retained loss, or up the deleted samples' loss"
    )
    hops: int = Field(default=60, ge=1, description="acting hops T_u; forwarding does not count")
    restart: float | None = Field(
        default=None, gt=0, le=1, description="probability p that a hop is the noisy node's; 1/N by default"
    )
    lr: float | None = Field(default=None, gt=0, description="step size; training.lr by default")
    clip: float = Field(default=1.0, gt=0, description="bound C on the norm of every gradient that is followed")
    noise: float | None = Field(
        default=None, gt=0, description="sigma, in units of gradients; derived from (epsilon, delta) by default"
    )
    minibatches: int = Field(default=4, ge=1, description="minibatch gradients s averaged in a step elsewhere")
    batch: int = Field(default=32, ge=1, description="samples of such a minibatch")
    local_steps: int = Field(default=1, ge=1, description="steps of a hop elsewhere")
    optimiser: Literal["sgd", "adam"] = Field(
        default="sgd", description="of steps elsewhere; adam: not with retrain accounting"
    )
    start_radius: float = Field(
        default=1.0, gt=0, description="retrain: radius of the ball around the public start for the trained model"
    )
    ball_radius: float | None = Field(
        default=None, gt=0, description="radius of a ball around the public start that every hop projects onto"
    )
    trust_radius: float | None = Field(
        default=None, gt=0, description="radius of the ball around the trained model at visits; not with retrain"
    )


def refuse_undefined(settings: RestartWalkSettings, plan: Plan, why: str) -> None:
    """Raise UserError for settings, levels and recipes that no theorem covers, before anything is trained."""
    lr, l2 = settings.lr or plan.training.lr, plan.training.l2
    if lr * l2 > 1:
        raise UserError(
            f"unlearning.lr = {lr:g} with training.l2 = {l2:g} takes the L2 term's step past zero (allowed: lr l2 <= 1)"
        )
    ways = f"'rr-du' with accounting = '{settings.accounting}' and alignment = '{settings.alignment}'"
    levels = defined_levels(settings)
    for request in plan.requests:
        where = request.where
        if request.level not in levels:
            raise UserError(
                f"{where}.level = '{request.level}' is not defined for {ways}: {why} (allowed: {listed(levels)})"
            )
        if settings.alignment == "lightweight" and request.leaves:
            raise UserError(
                f"{where} takes all samples of client {request.leaves[0]}, which is not defined for {ways}: {why} "
                "(allowed: unlearning.alignment = 'exact')"
            )
    if settings.accounting != "retrain":
        return
    if settings.trust_radius is not None:
        raise UserError(
            f"unlearning.trust_radius = {settings.trust_radius:g} is not defined for {ways}: a ball around the trained "
            "model tells two worlds apart (allowed: leave it out, or accounting = 'conservative' or 'paper')"
        )
    if settings.optimiser != "sgd":
        raise UserError(
            f"unlearning.optimiser = '{settings.optimiser}' is not defined for {ways}: the clip does not bound its "
            "steps (allowed: 'sgd')"
        )
    if plan.model.spec["checkpoint"] is not None:
        raise UserError(
            f"model.checkpoint = '{plan.model.spec['checkpoint']}' is not defined for {ways}: nothing shows that its "
            "training saw no record that may be deleted, and the ball of starts needs a public centre (allowed: leave "
            "it out)"
        )


def defined_levels(settings: RestartWalkSettings) -> tuple[str, ...]:
    """Return the levels of deletion that the accounting is defined for.

    Lightweight steps need a node that keeps samples; a transcript is compared for one node's deletion.
    """
    if settings.alignment == "lightweight":
        return ("sample",)
    return ("sample", "class", "client") if settings.accounting == "retrain" else ("sample", "client")
