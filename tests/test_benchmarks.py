"""The benchmarks measure what they say: memory of a tree, arithmetic, the same work, verdicts. And they run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import ndtr

import benchmarks
from benchmarks import accountants, memory, peer_flower_ray, reference, versus, workload, yardstick
from fedunlearn.models import ModelSettings, build_model
from fedunlearn.network.schedule import epoch_order
from fedunlearn.network.training import local_steps

PROJECT = Path(__file__).resolve().parents[1]
proportional = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells proportional sizes")

_ALLOCATE = "import sys; held = bytearray(60_000_000); print(len(held), flush=True); sys.stdin.read()"
_SHARE = """
import mmap, os, sys
held = mmap.mmap(-1, 60_000_000)
held.write(b"1" * 60_000_000)
child = os.fork()
assert held[::4096].count(b"1") == len(held[::4096])
if child == 0:
    os.write(1, b"child\\n")  # one write: unbuffered prints of two processes can mix
    sys.stdin.read()
    os._exit(0)
os.write(1, b"parent\\n")
os.waitpid(child, 0)
"""


def test_the_package_of_this_project_is_the_one_that_is_imported():
    assert Path(benchmarks.__file__).parent == PROJECT / "benchmarks"  # opacus installs one of the same name


# --- memory ----------------------------------------------------------------------------------------------------------


@proportional
def test_memory_sees_a_child_that_allocates():
    watched = memory.TreeMemory()
    watched.look()
    alone = watched.peak_mb
    with subprocess.Popen([sys.executable, "-c", _ALLOCATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        watched.look()
        child.stdin.close()
    assert alone + 50 < watched.peak_mb < alone + 150
    assert watched.processes >= 2
    peak = watched.peak_mb
    watched.look()
    assert watched.peak_mb == peak  # it is the peak, also when the child is gone


@proportional
def test_a_page_that_two_processes_share_counts_once():
    with subprocess.Popen([sys.executable, "-c", _SHARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert {parent.stdout.readline(), parent.stdout.readline()} == {b"child\n", b"parent\n"}
        kib, processes = memory.tree_kib(parent.pid)
        parent.stdin.close()
    assert processes == 2
    assert (
        60_000 < kib * 1.024 < 100_000
    )  # the mapping once and two interpreters; resident sizes would add up to 140,000


def test_resident_sizes_of_a_tree_are_summed_and_strangers_are_not():
    listing = "  30  20  5\n  20  10  7\n  10   1 11\n  40   1 13\n  50 40 17\n\n"
    assert memory.resident_kib(10, listing) == 5 + 7 + 11


def test_nothing_is_looked_at_while_the_watch_is_paused():
    def looks_again(watched: memory.TreeMemory, before: int) -> bool:
        deadline = time.monotonic() + 30  # a busy machine may let the watch wait, but not for ever
        while watched.looks <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        return watched.looks > before

    with memory.TreeMemory(every=0.01) as watched:
        assert looks_again(watched, 1)
        with watched.paused():
            before = watched.looks
            time.sleep(0.1)
            assert watched.looks == before
        assert looks_again(watched, before)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", workload.MODELS)
def test_multiply_accumulates_are_those_of_the_model(name: str):
    model = build_model(ModelSettings(name=name), workload.CLASSES, (28, 28))
    counted = []

    def count(layer: torch.nn.Module, _: tuple[torch.Tensor], out: torch.Tensor) -> None:
        counted.append(out[0].numel() * layer.weight[0].numel())  # each output is one product of a filter's length

    module = model.module()
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    module(model.prepare(np.zeros((1, 28, 28), np.uint8)))
    assert workload.forward_macs(name) == sum(counted)
    assert workload.training_macs(name) == 3 * sum(counted) - counted[0]


def test_the_ceiling_is_the_rate_over_the_arithmetic_of_an_update():
    assert workload.forward_macs("small-cnn") == 1_224_704
    # 100 GFLOP/s over 200 samples x 2 x (3 x 1,224,704 - 112,896) operations
    assert workload.updates_at(100.0, "small-cnn") == pytest.approx(100e9 / (200 * 2 * 3_561_216))
    assert workload.updates_at(100.0, "softmax") == pytest.approx(100e9 / (200 * 2 * 2 * 784 * 62))


def test_a_matrix_product_is_timed():
    assert 0.01 < reference.matrix_product_rate(side=128, seconds=0.01) < 1e5


def test_overhead_is_the_median_ratio_of_neighbours():
    # the machine slows down tenfold half way: ratios of neighbours do not notice
    assert reference.overhead_percent([(1.1, 1.0), (1.04, 1.0), (10.5, 10.0)]) == pytest.approx(5.0)


# --- the same work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", workload.MODELS)
def test_bare_step_and_product_do_the_same_work(name: str):
    """One epoch in the product's order of samples gives the product's rows."""
    clients, samples = 3, 40
    data = workload.dataset(clients, samples)
    with yardstick.network_of(name, 0, clients, samples) as network:
        model, start = network.session.model, network.read(0)
        local_steps(network, yardstick.recipe(1), 0)
        trained = network.read_rows(range(clients))
    pixels = torch.from_numpy(data.inputs).reshape(clients, samples, 28, 28)
    labels = torch.from_numpy(data.labels).reshape(clients, samples)
    for i in range(clients):
        module = model.load(model.module(), start)
        ids = np.arange(i * samples, (i + 1) * samples)
        order = torch.from_numpy(epoch_order(workload.SEED, i, ids, 0))
        reference.train_client(module, pixels[i], labels[i], order)
        np.testing.assert_allclose(trained[i], model.vector_of(module).numpy(), rtol=0, atol=2e-6)
        assert np.abs(trained[i] - start).max() > 1e-3


@pytest.mark.parametrize("name", workload.MODELS)
def test_the_peer_has_the_models_of_the_product(name: str):
    product = build_model(ModelSettings(name=name), workload.CLASSES, (28, 28))
    peer = peer_flower_ray.module_of(name)
    assert sum(p.numel() for p in peer.parameters()) == product.dim
    state = dict(zip(product.shapes, peer.state_dict().values()))
    theta = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    pixels = workload.dataset(2, 5).inputs
    images, _ = peer_flower_ray.data_of(2, 5)
    with torch.no_grad():
        ours, theirs = product.logits(theta, product.prepare(pixels)), peer(images.flatten(0, 1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_peer_averages_by_the_products_matrix():
    with yardstick.network_of("softmax", 0, 6, 4) as network:
        ours = network.weights.toarray()
    weights = peer_flower_ray.averaging_weights(6)
    np.testing.assert_allclose(weights.numpy(), ours, atol=1e-7)
    states = [{"a": torch.randn(2, 3), "b": torch.randn(4)} for _ in range(6)]
    mixed = peer_flower_ray.average(weights, states)
    expected = sum(float(weights[2, j]) * states[j]["a"] for j in range(6))
    torch.testing.assert_close(mixed[2]["a"], expected)
    assert mixed[0]["b"].shape == (4,)


# --- verdicts --------------------------------------------------------------------------------------------------------


def turn(
    updates: float, peer: float | None, overhead: float = 1.0, start_up: float = 2.0, mb: float = 500
) -> versus.Turn:
    return versus.Turn(
        product={
            "client_updates_per_s": updates, "start_up_s": start_up, "first_round_s": 0.5, "peak_memory_mb": mb,
        },
        bare={
            "client_updates_per_s": 95.0, "overhead_percent": overhead, "mixing_and_checks_percent": 2.0,
            "ceiling_updates_per_s": 200.0,
        },
        peer=None if peer is None else {
            "client_updates_per_s": peer, "start_up_s": 1.0, "first_round_s": 9.0, "peak_memory_mb": 2000,
        },
    )  # fmt: skip


def test_ratios_are_taken_within_turns_before_the_median():
    found = versus.compare("small-cnn", [turn(100, 10), turn(50, 10), turn(80, 4)])
    assert found.updates_per_s == 80 and found.peer_updates_per_s == 10
    assert found.times_peer == pytest.approx(10.0)  # of 10, 5 and 20; the ratio of the medians would be 8
    assert found.ceiling_percent == pytest.approx(40.0)
    assert found.first_done_s == pytest.approx(2.5) and found.peer_first_done_s == pytest.approx(10.0)


def verdict_of(found: versus.Comparison, what: str) -> bool | None:
    (verdict,) = [v for v in versus.verdicts([found]) if what in v.what]
    return verdict.met


@pytest.mark.parametrize(
    ("given", "what", "met"),
    [
        (turn(80, 10), "updates a second", True),
        (turn(79.9, 10), "updates a second", False),
        (turn(80, 80 / 7), "Flower on Ray", True),
        (turn(80, 12), "Flower on Ray", False),
        (turn(80, None), "Flower on Ray", None),
        (turn(80, 10, overhead=5.0), "bare step", True),
        (turn(80, 10, overhead=-3.0), "bare step", True),
        (turn(80, 10, overhead=5.1), "bare step", False),
        (turn(80, 10, start_up=3.1), "start-up", False),
        (turn(80, 10, mb=800), "memory", True),
        (turn(80, 10, mb=801), "memory", False),
    ],
)
def test_verdicts(given: versus.Turn, what: str, met: bool | None):
    assert verdict_of(versus.compare("small-cnn", [given]), what) is met


@pytest.mark.parametrize(("model", "times"), [("mlp", 25), ("softmax", 50)])
def test_each_model_has_its_own_factor_over_the_peer(model: str, times: int):
    assert verdict_of(versus.compare(model, [turn(10.0 * times, 10)]), "Flower on Ray") is True
    assert verdict_of(versus.compare(model, [turn(9.9 * times, 10)]), "Flower on Ray") is False


def test_the_comparison_is_printed_with_what_is_met_and_what_is_not(monkeypatch, capsys):
    monkeypatch.setattr(versus, "take_turn", lambda model, *_: turn(81, 20))
    assert versus.main(["--model", "small-cnn", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("updates a second" in line and line.rstrip().endswith(" met") for line in lines)
    assert any("times Flower" in line and line.rstrip().endswith("NOT MET") for line in lines)
    assert versus.main(["--model", "small-cnn", "--repeats", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["comparisons"][0]["turns"] == 2 and record["comparisons"][0]["times_peer"] == pytest.approx(4.05)
    assert [v["met"] for v in record["verdicts"]] == [True, False, True, True, True]


def test_a_script_that_fails_ends_the_comparison_with_a_sentence(monkeypatch, capsys):
    with pytest.raises(RuntimeError, match=r"benchmarks\.no_such_script ended with exit code 1: .*No module named"):
        versus.figures_of("no_such_script")

    def fails(*_: object) -> versus.Turn:
        raise RuntimeError("benchmarks.reference ended with exit code 1: gone")

    monkeypatch.setattr(versus, "take_turn", fails)
    assert versus.main([]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "versus: benchmarks.reference ended with exit code 1: gone"


# --- accountants -----------------------------------------------------------------------------------------------------


def test_accountants_are_asked_the_same_question():
    composition = accountants.Composition(rate=1, noise=4.0, steps=4)
    answers = {t.accountant: t.value for t in accountants.compositions([composition])}
    mu = 0.5  # four sums of noise multiplier 4; the exact profile (Balle and Wang 2018) solved for epsilon
    exact = brentq(lambda e: ndtr(mu / 2 - e / mu) - np.exp(e) * ndtr(-mu / 2 - e / mu) - 1e-5, 0, 9, xtol=1e-12)
    assert answers["ours"] == pytest.approx(exact, abs=1e-5)
    assert answers["our integration"] == pytest.approx(exact, abs=1e-5)
    assert answers["dp-accounting pld"] == pytest.approx(exact, rel=1e-3)
    assert all(answers[name] >= exact - 1e-5 for name in ("our rdp", "opacus rdp", "opacus prv", "dp-accounting rdp"))


def test_an_accountant_that_fails_is_a_line_of_the_table():
    def refuses() -> float:
        raise ValueError("no such noise")

    timing = accountants.ask("q", "a", refuses)
    assert timing.value is None and timing.failure == "ValueError: no such noise"
    assert len(accountants.tables([timing], [timing])) == 2


# --- they run --------------------------------------------------------------------------------------------------------


def test_yardstick_runs(monkeypatch, capsys):
    monkeypatch.setattr(yardstick, "WATCHED_SECONDS", 0.01)
    figures = yardstick.run(rounds=2, workers=0, model_name="softmax", clients=4, samples=8)
    assert len(figures["all_rounds"]) == 2 and figures["round_s"] == figures["all_rounds"][1]
    assert figures["client_updates_per_s"] == pytest.approx(4 / figures["round_s"], rel=0.3)
    assert figures["peak_memory_mb"] > 50 and figures["start_up_s"] > 0
    workload.show(figures, as_json=True)
    assert json.loads(capsys.readouterr().out) == figures


def test_bare_step_runs_in_processes(monkeypatch):
    monkeypatch.setattr(reference.Processes, "gflops", lambda self: 50.0)
    figures = reference.run(rounds=1, workers=1, model_name="softmax", clients=4, samples=8)
    assert figures["processes"] == 1 and len(figures["paired_rounds"]) == 1
    assert figures["ceiling_updates_per_s"] == pytest.approx(50e9 / workload.flop_of_update("softmax", 8), rel=1e-3)


def test_flower_on_ray_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert peer_flower_ray.main([]) == 1
    assert capsys.readouterr().err == f"peer_flower_ray: {peer_flower_ray.MISSING}\n"


@pytest.mark.ray
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="pip install 'fedunlearn[ray]' brings Ray")
def test_flower_on_ray_runs():
    program = "from benchmarks import peer_flower_ray as p; print(p.run(2, 'softmax', 4, 8)['all_rounds'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert len(json.loads(done.stdout.splitlines()[-1])) == 2, done.stderr
