"""Settings of the network room: the training recipe, the simulated links, and where the work runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fedunlearn.paths import stays_inside
from fedunlearn.settings import Settings


class TrainingSettings(Settings):
    """The recipe by which a network learns; retraining follows the very same one.

    ``dsgd``: every node takes its local steps, then rows are mixed once, ``theta <- W theta`` (adapt, then combine).
    ``fedavg``: a sample of clients takes its local steps from the common model, then all adopt their exact average.
    """

    algorithm: Literal["dsgd", "fedavg"] = "dsgd"
    rounds: int = Field(default=20, ge=0)
    local_epochs: int = Field(default=1, ge=1)
    local_steps: int | None = Field(default=None, ge=1, description="minibatch steps a round instead of whole epochs")
    batch: int = Field(default=32, ge=1)
    schedule: Literal["compact", "holes"] = Field(
        default="compact",
        description="holes: batches are slots over all sample ids, deleted ones leave holes and the divisor stays",
    )
    lr: float = Field(default=0.1, gt=0)
    final_rounds: int = Field(default=0, ge=0, description="the last rounds, which run at lr * final_factor")
    final_factor: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1, description="kept by each node over mixing, never mixed")
    l2: float = Field(default=0.0, ge=0, description="lambda of the term (lambda/2)||x||^2, on all parameters")
    clip: float | None = Field(
        default=None, gt=0, description="per-sample gradient norm bound C; divides by `batch`, fixed"
    )
    radius: float | None = Field(
        default=None, gt=0, description="project onto the ball of this radius after every step"
    )
    client_fraction: float = Field(default=1.0, gt=0, le=1, description="fedavg: share of clients sampled a round")
    weighting: Literal["equal", "samples"] = Field(
        default="equal", description="objective: mean of clients, or of samples"
    )
    form: Literal["auto", "loop", "vmap"] = Field(
        default="auto", description="how a block of rows is trained; softmax with holes: always vmap, in float64"
    )
    bfloat16: bool = Field(
        default=False, description="multiply in bfloat16; clipped steps and steps in float64 keep their precision"
    )


class LinkSettings(Settings):
    """Simulated network time: what a round would have taken on these links. It changes no number of the models."""

    bandwidth_mbps: float = Field(default=100.0, gt=0, description="of each node, up and down alike")
    latency_ms: float = Field(default=20.0, ge=0)
    samples_per_second: float = Field(default=1000.0, gt=0, description="gradient evaluations a node makes a second")


class RuntimeSettings(Settings):
    """Where the simulation runs. Nothing here changes a result."""

    hosts: int = Field(default=1, ge=1, description="Flower SuperNodes; each hosts a block of graph vertices")
    workers: int | None = Field(
        default=None, ge=0, description="one-thread processes in all; 0 = in this one; default: cores"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        description="budget of all processes together; rows beyond it go to files on disk; default: what is free",
    )
    scratch: str | None = Field(
        default=None, description="folder on disk for rows that do not fit in memory; default: that of temporary files"
    )
    cache: bool = Field(default=True, description="take trained networks from the cache, and keep them there")
    checkpoints: bool = Field(
        default=True,
        description="keep in the run's folder what --resume goes on from; secret draws are kept in any case",
    )
    checkpoint_seconds: float = Field(
        default=30.0,
        ge=0,
        description="how long to go without a checkpoint at least; 0: one at every point of the curve",
    )

    _inside = field_validator("scratch")(stays_inside)
