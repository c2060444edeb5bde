"""The pool of worker processes: how work is cut, workers started ahead of their host, and faults told."""

from __future__ import annotations

import heapq
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.errors import UserError
from fedunlearn.network import Network, TrainingSettings, host, inline, train
from fedunlearn.network import workers as pool
from fedunlearn.network.workers import Workers, kept_on, started_early
from tests.worlds import image_data, model_for, open_session


def cutter(count: int) -> Workers:
    """Return a pool that counts as ``count`` workers, to be asked how it cuts work; it has no processes."""
    found = Workers(0)
    found.count = count
    return found


@given(count=st.integers(0, 40), pieces=st.integers(1, 300))
def test_shares_cover_everything_and_get_smaller(count, pieces):
    edges = cutter(count).shares(pieces)
    sizes = np.diff(edges)
    assert len(sizes) == pieces and edges[0] == 0.0 and edges[-1] == 1.0
    assert (sizes > 0).all() and (np.diff(sizes) < 1e-12).all()
    assert sizes.max() <= 2.0 / pieces + 1e-12
    if pieces <= count:
        assert np.allclose(sizes, 1.0 / pieces)


@pytest.mark.parametrize(("count", "nodes"), [(2, 32), (3, 100), (8, 400)])
def test_workers_end_within_the_work_of_one_vertex(count, nodes):
    edges = np.ceil(cutter(count).shares(6 * count) * nodes - 1e-9)
    ends = [0.0] * count
    for size in np.diff(edges):  # each piece to the worker that is free first
        heapq.heapreplace(ends, ends[0] + size)
    assert sum(ends) == nodes
    assert max(ends) <= nodes / count + 1


def test_workers_can_be_started_before_torch_is_imported():
    code = "import sys, fedunlearn.network.workers, fedunlearn.flower.local; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


class Sleeper(subprocess.Popen):
    """A process that waits for its standard input to close, as a worker without commands does."""

    def __init__(self) -> None:
        super().__init__(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_hosts_take_over_the_workers_that_were_started_early(monkeypatch):
    made: list[Sleeper] = []
    monkeypatch.setattr(pool, "_start", lambda: made.append(Sleeper()) or made[-1])
    with started_early(2):
        first = Workers(1)
        assert first._processes == made[:1]
        second = Workers(2)
        assert second._processes == made[1:3]  # one from those that were waiting, one new
        late = made[1]
        second.close()
        assert late.returncode == 0
        third = Workers(0)
        assert third._processes == []
    assert first._processes[0].poll() is None  # leaving ends only those that no host took
    first.close()
    assert made[0].returncode == 0


def test_workers_that_no_host_took_are_ended(monkeypatch):
    made: list[Sleeper] = []
    monkeypatch.setattr(pool, "_start", lambda: made.append(Sleeper()) or made[-1])
    with pytest.raises(UserError), started_early(2):
        raise UserError("the run is refused before it has hosts")
    assert len(made) == 2 and all(process.returncode is not None for process in made)
    assert Workers(1)._processes == made[2:]  # a new one
    made[2].kill()


def test_workers_that_are_kept_on_serve_one_host_after_another(monkeypatch):
    """Three sessions take the same two processes, which let go of every store, and give the bits of new ones."""
    made, start = [], pool._start
    monkeypatch.setattr(pool, "_start", lambda: made.append(start()) or made[-1])

    def rows(workers):
        dataset = image_data(clients=5)
        with open_session(dataset, *model_for(dataset), workers=workers) as session:
            graph = nx.cycle_graph(5)
            network = Network(session, "main", graph, "metropolis", np.zeros(session.model.dim, np.float32))
            train(network, TrainingSettings(rounds=2, lr=0.1))
            return network.save()["theta"]

    expected = rows(0)
    with kept_on():
        for _ in range(3):
            np.testing.assert_array_equal(rows(2), expected)
            assert len(made) == 2 and all(process.poll() is None for process in made)
            for process in made:
                maps = Path(f"/proc/{process.pid}/maps")
                assert not maps.exists() or "fedunlearn-" not in maps.read_text()
        made[0].kill()
        made[0].wait()
        np.testing.assert_array_equal(rows(2), expected)  # one that died meanwhile is replaced
        assert len(made) == 3
    assert all(process.poll() is not None for process in made)


def test_a_busy_worker_is_not_kept_on(monkeypatch):
    monkeypatch.setattr(pool, "_start", Sleeper)
    with kept_on():
        workers = Workers(2)
        busy = workers._free.get()
        monkeypatch.setattr(Workers, "_ask", staticmethod(lambda process, command: {}))
        workers.close()
        assert busy.returncode == 0
        (kept,) = {process for process in [pool._early.get()] if process is not busy}
        assert kept.poll() is None and pool._early.empty()
        kept.kill()
        kept.wait()


def test_a_worker_answers_faults_and_goes_on():
    dataset = image_data(clients=3)
    model, mapping = model_for(dataset)
    with open_session(dataset, model, mapping, workers=1) as session:
        workers = session.transport._hosts[0].workers
        command = {"kind": "rows", "population": "main", "range": [0, 1], "params": {}}
        with pytest.raises(UserError, match="'os:abort' is not a declared node program"):
            workers.run([{**command, "program": "os:abort"}])
        (process,) = workers._processes
        assert workers._ask(process, {"kind": "open", "folder": str(workers._block.store.folder)}) == {}


def test_a_host_that_is_interrupted_while_it_is_made_leaves_no_store(monkeypatch):
    folders, genuine = [], inline.new_folder
    monkeypatch.setattr(inline, "new_folder", lambda: folders.append(genuine()) or folders[-1])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "_lay_out_samples", interrupt)
    dataset = image_data(clients=3)
    with pytest.raises(KeyboardInterrupt), open_session(dataset, *model_for(dataset), workers=1):
        pass
    assert len(folders) == 1 and not folders[0].exists()
