"""A restart walk whose token is stored is not walked again: no vertex sees what the token's secret noise hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from resume_kit import after_checkpoint, assert_same, go, power_cut, told
from small_runs import releases

from fedunlearn.network.inline import InlineTransport
from fedunlearn.privacy import noise as noise_module

REQUESTS = [{"level": "sample", "client": 1, "count": 5}, {"level": "client", "client": 4}]
WALK = {"method": "rr-du", "hops": 12}


UNKNOWN = ("distance_before", "distance_to_retrained", "prediction_distance_to_retrained")
"""Measures of the noise-free token, which is not there any more."""


class Watching(InlineTransport):
    """Notes with how much noise the network's vertices are asked to carry a token; twins are no part of it."""

    def __init__(self) -> None:
        super().__init__(3)
        self.walks: list[float] = []

    def exchange(self, requests):
        """Look into every request and those that travel with it."""
        for request in requests:
            for each in () if request is None else (*request.before, request):
                if each.op == "walk" and each.params["population"] == "main":
                    self.walks.append(each.params["params"]["noise"])
        return super().exchange(requests)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("fedunlearn.plots.draw_all", lambda *_, **__: None)


@pytest.mark.parametrize("changes", [
    pytest.param({}, id="a sample, and a client that leaves"),
    pytest.param({"accounting": "conservative", "alignment": "lightweight"}, id="walked ahead of the deletion"),
])  # fmt: skip
def test_a_stored_token_is_released_without_a_walk_and_all_is_charged_as_if_there_had_been_one(
    changes, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(noise_module, "_system_normals", np.zeros)  # so that two runs can be compared
    requests = REQUESTS[:1] if changes else REQUESTS
    settings = told(
        requests=requests, privacy={"noise": "secret"}, unlearning={**WALK, **changes}, topology={"repair": "path"},
        evaluation={"every": 4},
    )  # fmt: skip
    reference, _ = go(settings, transport=Watching(), out=tmp_path / "whole")
    first, where = Watching(), {"out": tmp_path / "run"}
    for _ in requests:
        with monkeypatch.context() as patch:
            after_checkpoint(patch, 1, "draw")
            with power_cut(patch):
                go(settings, transport=first, **where)
        assert first.walks and 0 not in first.walks
        first, where = Watching(), {"resume": tmp_path / "run"}
    last = Watching()
    result, _ = go(settings, transport=last, resume=tmp_path / "run")
    assert not last.walks
    assert releases(result.folder) == releases(reference.folder)
    for request in (*result.summary["requests"], *reference.summary["requests"]):
        for name in UNKNOWN:
            request.pop(name)
    assert_same(result, reference)
