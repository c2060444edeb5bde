"""How a host comes by its data: the conductor's own object in the same process, else loaded from the settings."""

from __future__ import annotations

from typing import Any

from fedunlearn.data import DataSettings, FederatedDataset, load_dataset
from fedunlearn.errors import UserError

_shared: dict[str, FederatedDataset] = {}


def publish(dataset: FederatedDataset) -> str:
    """Offer a data set to the hosts of this process and return the content hash they ask for it by.

    One of which the conductor has but a part is not offered: nobody may take it for the whole.
    """
    key = dataset.sha256()
    if dataset.is_whole:
        _shared[key] = dataset
    return key


def withdraw(key: str) -> None:
    """Stop offering a data set."""
    _shared.pop(key, None)


def obtain(key: str, settings: dict[str, Any] | None) -> FederatedDataset:
    """Return the data set with this content hash; a host that loads other data than the conductor is refused."""
    if settings is not None and settings.get("parts") is not None:
        raise UserError(
            f"data.parts = '{settings['parts']}' leaves training samples to their hosts, and this host has none: name "
            'its part in its node config, as data = ".../host-<h>.npz"'
        )
    if key in _shared:
        return _shared[key]
    if settings is None:
        raise UserError(
            "a data set made in Python can only be used by hosts in the same process: runtime.hosts runs locally"
        )
    dataset = load_dataset(DataSettings(**settings))
    if dataset.sha256() != key:
        raise UserError(
            f"data.source = '{settings['source']}' on a host differs from the conductor's (content hash "
            f"{dataset.sha256()[:12]}, expected {key[:12]}); put the same file on every host"
        )
    return dataset
