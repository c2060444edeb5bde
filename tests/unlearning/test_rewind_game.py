"""The worst data sets of rewinding: where both runs end, against records that are really there."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from fedunlearn.data import FederatedDataset
from fedunlearn.privacy.claims.rewind_facts import RewindFacts
from fedunlearn.unlearning.certified import rewind_game
from fedunlearn.unlearning.certified.rewind_recipe import deleted_shares
from tests.worlds import Story, TrainingSettings, model_for, open_session, request_for, table_data

RECIPE = TrainingSettings(rounds=10, batch=64, lr=0.5, l2=0.1, schedule="holes")


@contextmanager
def answered(**settings):
    dataset: FederatedDataset = table_data(clients=5, classes=3, inputs=4, seed=6, sizes=(10, 20))
    request = request_for(dataset, level="sample", client=1, count=4)
    with open_session(dataset, *model_for(dataset)) as session:
        story = Story(session, "rewind", RECIPE, repair="relay", requests=[request], **settings)
        story.learn()
        outcome = story.answer(request)
        shares = deleted_shares(story.network, RECIPE, request.sample_ids)
        yield story, outcome, shares


def plain_runs(network, shares, rewound, offset, margin):
    """Both runs once more, vertex by vertex, on logits of the one row: a retained class 0 and a deleted class 1."""
    weights = network.weights.toarray()
    runs = {}
    for name in ("unlearned", "retrained"):
        rows = [np.array([margin, 0.0, 0.0]) for _ in range(network.num_nodes)]
        for t in range(RECIPE.rounds):
            if name == "unlearned" and t == RECIPE.rounds - rewound:
                rows = [r + offset / np.sqrt(2) * np.array([-1.0, 1.0, 0.0]) for r in rows]
            for i, r in enumerate(rows):
                p = np.exp(r - r.max()) / np.exp(r - r.max()).sum()
                share = shares[i, t]
                gradient = (1 - share) * (p - [1, 0, 0])
                if name == "unlearned" and t < RECIPE.rounds - rewound:
                    gradient = gradient + share * (p - [0, 1, 0])
                rows[i] = r - RECIPE.lr * (gradient + RECIPE.l2 * r)
            rows = list(weights @ np.array(rows))
        runs[name] = np.mean(rows, axis=0)
    return runs["unlearned"], runs["retrained"]


def story_facts(outcome, rewound):
    known = {k: v for k, v in outcome.certificate.facts.items() if k in RewindFacts.__dataclass_fields__}
    return replace(RewindFacts(**known), rewound=rewound)


@pytest.mark.parametrize("rewound", [2, 7])
def test_both_runs_end_where_a_plain_loop_over_vertices_ends(rewound):
    with answered(rewind=0.2, sigma=0.3) as (story, outcome, shares):
        facts = story_facts(outcome, rewound)
        rates = np.full(RECIPE.rounds, RECIPE.lr)
        found = rewind_game.worst_case(story.network, facts, rates, shares, 40.0, 1)
        expected = plain_runs(story.network, shares, rewound, facts.offset, 40.0)
        for mine, other in zip(found, expected):
            assert mine == pytest.approx(other, abs=1e-9)
        assert np.linalg.norm(found[0] - found[1]) > 0


def test_the_pair_lies_within_the_claim_and_near_it():
    with answered(rewind=0.2, sigma=0.3) as (story, outcome, _):
        game = story.unlearner.tight_game(story.network, outcome, story.situation())
        assert game.kind == "tight" and 0.9 <= game.distance / outcome.certificate.sensitivity <= 1 + 1e-9
