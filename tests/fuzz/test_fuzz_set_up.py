"""Mutated set-ups of a host: refused in one sentence with nothing left behind, or the very block that they describe."""

from __future__ import annotations

import copy
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedunlearn.errors import UserError
from fedunlearn.network import datasource
from fedunlearn.network.host import Host
from tests.fuzz.mutations import mutated_array, mutated_value
from tests.worlds import image_data, model_for

DATA = image_data(clients=6)
ORDER = np.array([4, 0, 5, 2, 1, 3])


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    model, features = model_for(DATA)
    return {
        "block": [1, 4], "num_nodes": 6, "workers": 0, "device": "cpu", "room": None, "scratch": None,
        "dataset": datasource.publish(DATA), "data": None, "model": model.spec, "features": features.to_spec()[0],
    }  # fmt: skip


def set_up(folder: Path, params: Any, arrays: dict[str, np.ndarray]) -> str:
    """Set a host up; say what became of it."""
    folder.mkdir(mode=0o700)
    try:
        host = Host.create(folder, params, arrays)
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        assert not folder.exists(), "a refused set-up has left something"
        return "refused"
    order, (low, high) = arrays.get("order", np.arange(6)), params["block"]
    assert sorted(order.tolist()) == list(range(6)) and 0 <= low <= high <= 6
    assert host.block.ids.tolist() == order[low:high].tolist()
    rows = [DATA.train_rows(node).tolist() for node in order[low:high].tolist()]
    assert host.store["sample_ids"].tolist() == [row for each in rows for row in each]
    assert np.diff(host.store["offsets"]).tolist() == [len(each) for each in rows]
    host.close()
    return "accepted"


def mutated_order(rng: random.Random) -> np.ndarray:
    """Return an order with one fault, or another order: swapped, turned, doubled, of another type, shape or range."""
    order, kind = ORDER.copy(), rng.randrange(4)
    if kind == 0:
        rng.shuffle(order)
    elif kind == 1:
        order[rng.randrange(6)] = order[rng.randrange(6)]
    else:
        order = mutated_array(order, rng)
    return order


def test_mutated_set_ups_are_refused_or_make_the_block_they_describe(params: dict[str, Any], tmp_path: Path) -> None:
    rng, found = random.Random(11), Counter[str]()
    assert set_up(tmp_path / "sound", params, {"order": ORDER}) == "accepted"
    for i in range(300):
        changed, arrays = copy.deepcopy(params), {"order": ORDER}
        kind = rng.randrange(5)
        if kind <= 2:
            arrays = {"order": mutated_order(rng)}
        elif kind == 3:
            changed = mutated_value(changed, rng)
        else:
            arrays[rng.choice(["order ", "features.weights", "theta", "../order", ""])] = ORDER
        workers = changed.get("workers") if isinstance(changed, dict) else None
        if isinstance(workers, int) and 0 < workers < 1000:
            continue  # processes that would only take time
        found[set_up(tmp_path / str(i), changed, arrays)] += 1
    assert found["refused"] > 120 and found["accepted"] > 20


@pytest.mark.parametrize(
    ("order", "part"),
    [
        (np.array([0, 1, 2, 3, 4, 4]), "names a vertex twice"), (np.array([0, 1, 2, 3, 4, 6]), "not less than 6"),
        (np.array([0, 1, 2, 3, 4, -1]), "less than 0"), (np.arange(5), "shape (5,)"), (np.arange(6.0), "not int64"),
        (np.arange(6)[None], "shape (1, 6)"),
    ],
)  # fmt: skip
def test_an_order_names_every_vertex_once(params: dict[str, Any], tmp_path: Path, order: np.ndarray, part: str) -> None:
    with pytest.raises(UserError, match="malformed 'setup'") as caught:
        Host.create(tmp_path / "host", params, {"order": order})
    assert part in str(caught.value)
