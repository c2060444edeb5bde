"""Settings of ``newton``: how the stopping rule is met (provable mode), or what is broadcast (paper and one-step)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedunlearn.settings import Settings
from fedunlearn.unlearning.curvature import Curvature


class NewtonSettings(Settings):
    """How the stopping rule is chosen and met; in the other modes, how a single correction is made and noised."""

    mode: Literal["provable", "paper", "one-step"] = Field(
        default="provable",
        description="provable: to a public tolerance; paper: one correction, noised once and broadcast; one-step: "
        "one correction, no noise, nothing certified",
    )
    target_sigma: float = Field(
        default=0.05, gt=0, description="noise that tau (and in paper mode r_max and c) are derived from"
    )
    tolerance: float | None = Field(default=None, gt=0, description="tau, instead of deriving it from target_sigma")
    curvature: Curvature = Field(default="auto", description="preconditioner (provable) or curvature (other modes)")
    curvature_at: Literal["public-head", "release"] = Field(
        default="public-head", description="provable: where public curvature is taken"
    )
    gradient: Literal["retained", "forget-set"] = Field(
        default="retained",
        description="paper, one-step: from the retained data, or from the deleted ones (with the m grad F_u term)",
    )
    damping: float = Field(default=0.0, ge=0, description="paper, one-step: added to the curvature")
    max_steps: int = Field(default=50, ge=1, description="Newton steps before falling back to retraining")
    max_products: int = Field(
        default=3000, ge=1, description="Hessian-vector products before falling back to retraining"
    )
    bound: Literal["measured", "worst-case"] = Field(
        default="measured", description="paper: accept by the gradient after the correction, or bound its error"
    )
    residual: float | None = Field(default=None, gt=0, description="paper: r_max, the gradient norm that is accepted")
    consensus: float | None = Field(
        default=None, ge=0, description="paper: bound c on a model's distance to the mean; 0: average exactly first"
    )
    corrections: int = Field(default=1, ge=1, description="paper: corrections to try before retraining (measured)")
    curvature_data: Literal["network", "asking-client"] = Field(
        default="network", description="paper: whose data the curvature is taken over"
    )
    recovery: Literal["round", "local", "none"] = Field(
        default="round", description="paper: after the noise, a round of training, its local steps alone, or nothing"
    )
    recovery_lr: float | None = Field(default=None, gt=0, description="paper: default: training.lr")
    message_radius: float | Literal["bound"] | None = Field(
        default=None, description="paper: clip the correction to C_v and noise it enough to certify the message"
    )
