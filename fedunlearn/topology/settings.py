"""Settings of the topology room: the graph, its mixing matrix, and what happens to it when a client leaves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fedunlearn.paths import stays_inside
from fedunlearn.settings import Settings

Generator = Literal[
    "ring", "path", "star", "complete", "grid", "torus", "tree", "hypercube", "exponential", "random-regular",
    "erdos-renyi", "watts-strogatz", "barabasi-albert", "stochastic-block", "random-geometric", "single", "file",
]  # fmt: skip
Mixing = Literal["metropolis", "max-degree", "lazy-metropolis", "lazy-max-degree", "random-matching", "exact-average"]
Repair = Literal["refuse", "path", "relay"]


class TopologySettings(Settings):
    """The communication graph. The number of nodes is the number of train clients unless ``nodes`` says otherwise."""

    generator: Generator = "watts-strogatz"
    nodes: int | None = Field(default=None, ge=1)
    degree: int = Field(
        default=4,
        ge=1,
        description="random-regular: neighbours of a node; watts-strogatz: neighbours before rewiring, even",
    )
    probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="erdos-renyi: edge (2 ln n/n); watts-strogatz: rewiring (0.1); stochastic-block: within (2 ln n/n)",
    )
    probability_between: float = Field(default=0.02, ge=0, le=1, description="stochastic-block: between blocks")
    blocks: int = Field(default=4, ge=1, description="stochastic-block: number of equal blocks")
    attachments: int = Field(default=2, ge=1, description="barabasi-albert: edges of each new vertex")
    branching: int = Field(default=2, ge=1, description="tree: children of each vertex")
    radius: float | None = Field(
        default=None, gt=0, description="random-geometric: radius in the unit square (1.5 sqrt(ln n/(pi n)))"
    )
    path: str | None = Field(
        default=None,
        description="file: GraphML, edge list or TOML (edges or a generator spec); or a name in topologies/",
    )
    mixing: Mixing = "metropolis"
    repair: Repair = Field(
        default="refuse",
        description="path: join a leaver's former neighbours in a path, always; relay: a leaver stays, without data",
    )
    seed: int | None = Field(default=None, ge=0, description="seed of a random graph; by default the run's seed")

    _inside = field_validator("path")(stays_inside)
