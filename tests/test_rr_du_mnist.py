"""The backdoor benchmark of RR-DU: trigger, roles, request, metric, and what it says of noise; no training."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch

from benchmarks import rr_du_mnist as bench
from fedunlearn.data import Role
from fedunlearn.errors import UserError
from fedunlearn.privacy import delta_of


@pytest.fixture(scope="module")
def arrays():
    """Four hundred training and thirty test images of dim noise; no pixel is white."""
    rng = np.random.default_rng(3)
    return {
        "train_images": rng.integers(0, 200, (400, 28, 28)).astype(np.uint8),
        "train_labels": rng.integers(0, 10, 400).astype(np.uint8),
        "test_images": rng.integers(0, 200, (30, 28, 28)).astype(np.uint8),
        "test_labels": (np.arange(30) % 10).astype(np.uint8),
    }


def wears_the_square(images):
    return (images[:, 24:27, 24:27] == 255).all(axis=(1, 2))


def test_the_trigger_is_nine_white_pixels_near_the_corner_and_copies(arrays):
    images = arrays["train_images"][:5]
    before = images.copy()
    marked = bench.triggered(images)
    assert np.array_equal(images, before)
    changed = np.argwhere(marked != images)
    assert len(changed) == 5 * 9 and set(changed[:, 1]) == set(changed[:, 2]) == {24, 25, 26}
    assert (marked[marked != images] == 255).all()
    assert np.array_equal(bench.triggered(marked), marked)


def test_the_federation_is_the_permuted_images_with_one_poisoned_client(arrays):
    world = bench.poisoned_federation(arrays, 5, each=40, poisoned=12, tests=20)
    data = world.dataset
    assert data.clients(Role.TRAIN).tolist() == list(range(10)) and data.clients(Role.NEVER_MEMBER).tolist() == [10]
    assert [len(data.train_rows(c)) for c in range(11)] == [40] * 10 + [0]
    assert len(data.test_rows(10)) == 20 and np.array_equal(data.inputs[data.test_rows(10)], world.images)
    assert not wears_the_square(world.images).any()
    # Only the named records of node 0 wear the square, and all have the target label.
    poisoned = data.train_rows(0)[list(world.positions)]
    assert np.array_equal(np.flatnonzero(wears_the_square(data.inputs)), poisoned)
    assert (data.labels[poisoned] == bench.TARGET).all()
    # Every original image occurs once: what was poisoned is found by its other pixels, and was no zero.
    left = {image[:20].tobytes(): int(label) for image, label in zip(arrays["train_images"], arrays["train_labels"])}
    found = [left.pop(image[:20].tobytes()) for image in data.inputs[:400]]
    assert not left
    assert all(found[i] != bench.TARGET for i in poisoned)
    kept = np.setdiff1d(np.arange(400), poisoned)
    assert [found[i] for i in kept] == data.labels[kept].tolist()


def test_the_request_deletes_the_poisoned_records_and_nothing_else(arrays):
    world = bench.poisoned_federation(arrays, 5, each=40, poisoned=12, tests=20)
    request = world.request()
    assert request.level == "sample" and request.node == 0 and not request.leaves
    assert np.array_equal(request.sample_ids, np.flatnonzero(wears_the_square(world.dataset.inputs)))


def test_seeds_deal_the_images_anew(arrays):
    one, again, other = (bench.poisoned_federation(arrays, s, each=40, poisoned=12, tests=20) for s in (5, 5, 6))
    assert one.dataset.sha256() == again.dataset.sha256() != other.dataset.sha256()


@pytest.mark.parametrize(("each", "poisoned"), [(41, 5), (40, 41)])
def test_too_few_images_are_refused(arrays, each, poisoned):
    with pytest.raises(UserError, match="not allowed"):
        bench.poisoned_federation(arrays, 0, each=each, poisoned=poisoned, tests=5)


def test_backdoor_accuracy_leaves_out_images_of_the_target():
    labels = np.array([0, 0, 1, 2, 3, 4])
    predicted = np.array([0, 1, 1, 2, 3, 0])
    marked = np.array([0, 0, 0, 2, 0, 4])
    found = bench.accuracies(predicted, marked, labels)
    assert found == {"clean": 4 / 6, "backdoor": 2 / 4, "backdoor_all": 4 / 6}


def test_a_model_that_always_says_the_target_has_full_backdoor_accuracy(arrays):
    world = bench.poisoned_federation(arrays, 0, each=20, poisoned=3, tests=30)

    class Sees:
        """Says 0 where the square is white, and 3 elsewhere."""

        def logits(self, row, x):
            assert x.shape[1:] == (1, 28, 28) and x.max() <= 1
            white = (x[:, 0, 24:27, 24:27] == 1).all(dim=(1, 2))
            return torch.nn.functional.one_hot(torch.where(white, 0, 3), 10).float()

    found = bench.measure(Sees(), np.zeros(1), world)
    assert found == {"clean": 0.1, "backdoor": 1.0, "backdoor_all": 1.0}


def test_graphs_have_ten_nodes_and_are_connected():
    for name in bench.GRAPHS:
        for seed in range(4):
            graph = bench.graph_of(name, seed)
            assert sorted(graph) == list(range(10)) and nx.is_connected(graph)
    assert bench.graph_of("ring", 0).size() == 10 and bench.graph_of("complete", 0).size() == 45


def test_flnet_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in bench.flnet((1, 28, 28), 10).parameters()) == 1_663_370


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_no_gradients_move_adam_further_than_the_bound_and_some_reach_it(steps):
    def moved(gradients):
        first = second = 0.0
        for g in gradients:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        return abs(first / (1 - 0.9**steps)) / math.sqrt(second / (1 - 0.999**steps))

    bound = bench.adam_step_bound(steps)
    draws = np.random.default_rng(0).normal(size=(200, steps))
    assert max(moved(row) for row in draws) <= bound + 1e-9
    worst = [0.9**age / 0.999**age for age in reversed(range(steps))]
    assert moved(worst) == pytest.approx(bound)


FACTS = {
    "visits": (2, 4), "lr": 0.1, "noise": 5.0, "clip": 0.5, "trust_radius": None, "noise_after_step": True,
    "local_steps": 2, "dim": 100,
}  # fmt: skip


def test_worth_of_a_transcript_is_that_of_its_visits_composed():
    found = bench.worth(FACTS, "sgd", 0.3, 1e-5)["transcript"]
    assert delta_of(math.sqrt(2) * 0.5 / 5.0, found) == pytest.approx(1e-5, rel=1e-3)


def test_worth_of_retraining_follows_the_gap_up_to_the_last_visit():
    """Two visits, merged at the second; how the shift is shared between them is searched on a grid."""
    found = bench.worth(FACTS, "sgd", 0.3, 1e-5)["retraining"]
    # Start 0.6; hops 1 and 3 add 2 lr 2 C = 0.2, visits add 2 lr C = 0.1; each visit has variance 0.25.
    first, last = 0.6 + 0.2 + 0.1, 0.6 + 0.2 + 0.1 + 0.2 + 0.1
    shares = np.linspace(0, first, 20001)
    best = min(math.sqrt(s * s / 0.25 + (last - s) ** 2 / 0.25) for s in shares)
    assert delta_of(best, found) == pytest.approx(1e-5, rel=1e-3)


def test_adam_and_trust_regions_cost_what_they_are():
    plain = bench.worth(FACTS, "sgd", 0.3, 1e-5)["retraining"]
    assert bench.worth(FACTS, "adam", 0.3, 1e-5)["retraining"] > plain
    published = {**FACTS, "trust_radius": 1.0, "noise_after_step": False}
    assert bench.worth(published, "adam", 0.3, 1e-5)["retraining"] == math.inf
    after = bench.worth({**FACTS, "trust_radius": 1.0}, "adam", 0.3, 1e-5)["retraining"]
    assert delta_of(2 * (0.3 + 1.0) / 0.5, after) == pytest.approx(1e-5, rel=1e-3)


def test_tables_give_mean_and_deviation_over_seeds():
    records = [{"row": "a", "backdoor": 0.5, "clean": 1.0}, {"row": "b", "backdoor": 0.1, "clean": 0.9}]
    records.append({"row": "a", "backdoor": 0.7, "clean": 1.0})
    lines = bench.table(records).splitlines()
    assert lines[2:] == ["| a | 2 | 60.0 ± 14.1 | 100.0 ± 0.0 |", "| b | 1 | 10.0 | 90.0 |"]


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_the_file_one_sentence_says_what_is_missing(folder, monkeypatch, tmp_path, capsys):
    if folder is None:
        monkeypatch.delenv("FEDUNLEARN_DATA", raising=False)
    else:
        monkeypatch.setenv("FEDUNLEARN_DATA", str(tmp_path))
    assert bench.main(["--seeds", "1"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "FEDUNLEARN_DATA" in err and "mnist.npz" in err
