"""What a run says of its hosts: before it starts, in its summary, on the screen; and the order in the cache's key."""

from __future__ import annotations

import io
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from rich.console import Console
from small_runs import experiment, numbers, run
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.evaluation.evaluator import Evaluator
from fedunlearn.network import Network, Session
from fedunlearn.network.inline import InlineTransport
from fedunlearn.results import summary_table
from fedunlearn.simulation import estimate, prepare
from fedunlearn.simulation.training_cache import TrainingCache
from fedunlearn.topology.partition import blocks, border_rows, vertex_order

WORLD = {
    "data": {"clients": 12}, "topology": {"generator": "watts-strogatz", "degree": 4, "probability": 0.5},
    "unlearning": {"method": "retrain"},
}  # fmt: skip


def test_the_summary_has_what_the_dry_run_foretold_and_other_hosts_change_no_other_number() -> None:
    told = estimate(experiment(**WORLD, runtime={"hosts": 3}))["hosts"]
    one, three = run(**WORLD).summary, run(hosts=3, **WORLD).summary
    assert numbers(one) == numbers(three)
    hosts = three["hosts"]
    assert (hosts["count"], hosts["workers"]) == (3, 0)
    assert told["cut_edges"] == hosts["cut_edges"] > 0 and told["border_share"] == hosts["border_share"] > 0
    assert (told["count"], told["largest_block"]) == (3, 4)
    assert min(hosts[key] for key in ("messages", "bytes_sent", "bytes_received")) > 0
    assert (one["hosts"]["count"], one["hosts"]["cut_edges"], one["hosts"]["border_share"]) == (1, 0, 0.0)
    assert "hosts" not in estimate(experiment(**WORLD))


@pytest.mark.parametrize(("changes", "crosses"), [({}, True), ({"topology": {"mixing": "exact-average"}}, False)])
def test_a_round_moves_border_rows_in_gossip_alone(changes: dict[str, dict[str, str]], crosses: bool) -> None:
    settings = experiment(runtime={"hosts": 2}, **changes)
    graph = prepare(settings, lambda phase, done, total: None).graph
    expected = len(border_rows(graph, blocks(vertex_order(graph), 2)))
    assert estimate(settings)["hosts"]["rows_a_round"] == (expected if crosses else 0)


def test_several_hosts_have_a_line_on_the_screen() -> None:
    for count in (1, 2):
        console = Console(file=io.StringIO(), width=200, color_system=None)
        console.print(summary_table(run(hosts=count).summary))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("2 hosts: 2 edges between them, 67% of rows at borders; " in shown) == (count == 2)


def test_the_command_line_takes_hosts_and_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    world = '[data]\nsource = "digits"\nclients = 6\n[topology]\ngenerator = "ring"\n'
    Path("small.toml").write_text(world + '[unlearning]\nmethod = "retrain"\n')
    result = CliRunner().invoke(app, ["run", "small.toml", "--hosts", "3", "--workers", "0", "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for line in ("hosts · count 3", "hosts · largest block 2", "hosts · cut edges 3", "hosts · rows a round 6"):
        assert line in lines
    assert CliRunner().invoke(app, ["run", "small.toml", "--hosts", "0"]).exit_code == 2


def test_the_key_of_a_training_has_the_order_where_it_is_not_that_of_ids() -> None:
    settings = experiment()
    world = prepare(settings, lambda phase, done, total: None)
    evaluator = Evaluator(world.dataset, world.features, world.model, settings.evaluation, settings.seed)
    cache = TrainingCache(world.dataset, evaluator, every=2)
    far = nx.relabel_nodes(nx.path_graph(6), dict(enumerate([0, 3, 5, 1, 4, 2])))
    found = []
    for graph in (None, world.graph, far):
        with Session(
            InlineTransport(1), world.dataset, world.model, world.features, seed=3, runtime=settings.runtime,
            graph=graph,
        ) as session:  # fmt: skip
            network = Network(session, "main", world.graph, "metropolis", world.start)
            found.append(cache.content(network, world.start, settings.training))
            assert ("order" in found[-1]) == (not np.array_equal(session.order, np.arange(6)))
    assert found[0] == found[1] and "order" in found[2]
