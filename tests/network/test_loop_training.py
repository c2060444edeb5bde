"""The loop form: rows after a round are those of the textbook loop, whatever computes the gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedunlearn.models import ModelSettings, build_model
from fedunlearn.models.features import FeatureMap
from fedunlearn.network import TrainingSettings, loop_training
from fedunlearn.network.schedule import local_batches
from fedunlearn.network.training import local_steps
from tests.worlds import all_rows, image_data, open_session, ring_network

OWN = "tests.models.user_modules:Good"
RECIPES = {
    "plain": TrainingSettings(batch=5, lr=0.2),
    "momentum and l2": TrainingSettings(batch=5, lr=0.1, momentum=0.8, l2=0.05, local_epochs=2),
    "ball": TrainingSettings(batch=5, lr=0.2, radius=3.0),
    "clipped": TrainingSettings(batch=5, lr=0.5, clip=0.05),
    "holes": TrainingSettings(batch=5, lr=0.2, l2=0.05, schedule="holes"),
    "bfloat16": TrainingSettings(batch=5, lr=0.2, bfloat16=True),
}


def world(name: str, **data):
    dataset = image_data(clients=3, side=9, **data)
    mapping = FeatureMap("raw", dataset.input_shape)
    model = build_model(ModelSettings(name=name, activation="smelu"), dataset.num_classes, mapping.output_shape)
    return dataset, mapping, model


def trained(dataset, mapping, model, recipe, *, hosts=1, deleted=(), round_=1):
    """Return the rows after local steps from the public start, in the loop form."""
    with open_session(dataset, model, mapping, hosts=hosts) as session:
        network = ring_network(session, momentum=recipe.momentum > 0)
        network.erase(np.array(deleted, dtype=np.int64))
        local_steps(network, recipe.model_copy(update={"form": "loop"}), round_)
        return all_rows(network)


def textbook(dataset, model, client, recipe, *, deleted=(), round_=1):
    """Return one client's row by an ordinary loop with autograd, sample by sample where gradients are clipped."""
    module = model.load(model.module(), model.initial(0)).train()
    parameters = list(module.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    mine = dataset.train_rows(client)
    holes = recipe.schedule == "holes"
    kept = mine if holes else mine[~np.isin(mine, deleted)]
    for chosen in local_batches(0, client, kept, recipe, round_):
        ids = kept[chosen]
        divisor = len(ids) if recipe.clip is None else recipe.batch
        ids = ids[~np.isin(ids, deleted)]
        x = model.prepare(dataset.inputs[ids])
        y = torch.from_numpy(dataset.labels[ids])
        total = [torch.zeros_like(p) for p in parameters]
        singles, whole = [[i] for i in range(len(ids))], [list(range(len(ids)))] if len(ids) else []
        for part in whole if recipe.clip is None else singles:
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                logits = module(x[part]).float()
            loss = F.cross_entropy(logits, y[part], reduction="sum")
            # In bfloat16 it matters where the division stands: before the rounding of what flows backwards.
            found = torch.autograd.grad(loss if recipe.clip is not None else loss / divisor, parameters)
            if recipe.clip is not None:
                norm = float(torch.cat([g.reshape(-1) for g in found]).norm())
                found = [min(1.0, recipe.clip / norm) * g / divisor for g in found]
            total = [t + g for t, g in zip(total, found)]
        with torch.no_grad():
            for p, t, v in zip(parameters, total, velocity):
                v.mul_(recipe.momentum).add_(t + recipe.l2 * p)
                p.sub_(recipe.lr * v)
            if recipe.radius is not None:
                norm = torch.cat([p.reshape(-1) for p in parameters]).norm()
                for p in parameters:
                    p.mul_(min(1.0, recipe.radius / float(norm)))
    return torch.cat([p.detach().reshape(-1) for p in parameters]).numpy()


# A softmax head with holes takes the stacked form, in float64, whatever is asked for.
LOOPS = [(r, n) for r in RECIPES for n in ("small-cnn", "softmax", "mlp", OWN) if (r, n) != ("holes", "softmax")]


@pytest.mark.parametrize(("recipe", "name"), LOOPS)
def test_a_round_is_the_textbook_loop(recipe, name):
    dataset, mapping, model = world(name)
    deleted = dataset.train_rows(1)[[0, 2, 3, 7]] if recipe == "holes" else dataset.train_rows(1)[:4]
    rows = trained(dataset, mapping, model, RECIPES[recipe], deleted=deleted)
    for client in range(3):
        expected = textbook(dataset, model, client, RECIPES[recipe], deleted=deleted)
        assert np.abs(expected - model.initial(0)).max() > 1e-3
        assert np.abs(rows[client] - expected).max() < 1e-5


def test_a_batch_of_holes_alone_takes_its_l2_step():
    dataset, mapping, model = world("small-cnn", sizes=(7, 8))
    recipe = TrainingSettings(batch=3, lr=0.5, l2=0.1, schedule="holes")
    rows = trained(dataset, mapping, model, recipe, deleted=dataset.train_rows(0))
    assert np.allclose(rows[0], model.initial(0) * (1 - 0.5 * 0.1) ** 2, atol=1e-6)  # six samples: two steps


def test_where_a_row_lies_in_memory_changes_no_bits():
    # A batch of one sample: a matrix times a vector, whose kernel looks at where the matrix begins. With several hosts
    # rows begin elsewhere, as their length is no multiple of 16 bytes.
    dataset = image_data(clients=4, classes=5, side=28, sizes=(7, 8))
    mapping = FeatureMap("raw", dataset.input_shape)
    model = build_model(ModelSettings(name="small-cnn"), dataset.num_classes, mapping.output_shape)
    assert model.dim % 4
    recipe = TrainingSettings(batch=5, lr=0.2)  # six training samples: the second batch has one
    one = trained(dataset, mapping, model, recipe)
    for hosts in (2, 4):
        assert np.array_equal(one, trained(dataset, mapping, model, recipe, hosts=hosts))


@pytest.mark.parametrize("gather", [1, 12, 10_000])
def test_how_many_samples_are_gathered_together_changes_no_bits(gather, monkeypatch):
    dataset, mapping, model = world("small-cnn")
    recipe = TrainingSettings(batch=5, lr=0.2, local_epochs=2)
    expected = trained(dataset, mapping, model, recipe)
    monkeypatch.setattr(loop_training, "_GATHER", gather)
    assert np.array_equal(expected, trained(dataset, mapping, model, recipe))


@pytest.mark.parametrize(("name", "taped"), [("small-cnn", True), (OWN, False)])
def test_who_differentiates(name, taped, monkeypatch):
    dataset, mapping, model = world(name)
    used = []
    wrapped = loop_training._autograd
    monkeypatch.setattr(loop_training, "_autograd", lambda *a: used.append("autograd") or wrapped(*a))
    with open_session(dataset, model, mapping) as session:
        network = ring_network(session)
        local_steps(network, TrainingSettings(batch=30, lr=0.1, form="loop"), 0)
        assert (used == []) == taped
        local_steps(network, TrainingSettings(batch=30, lr=0.1, form="loop", bfloat16=True), 0)
        assert used[-1:] == ["autograd"]
