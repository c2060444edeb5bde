"""Accountants: what follows from the noise that was drawn, for everybody who may see what it protects.

``events`` say what was released and to whom, without mathematics; ``opinions`` says what follows, by the accountant
that decides (the exact Gaussian profile, or the loss distribution under Poisson sampling) and a second opinion that may
contradict it; ``calibration`` inverts it. ``requesters``, ``views`` and ``groups`` ask on behalf of each leaver, each
observer and several deleted records. Modules named after a mechanism hold its theorem's arithmetic.
"""

from fedunlearn.privacy.accounting.calibration import (
    load_for_events,
    noise_for_events,
    sampled_capacity,
    sampled_noise,
    sampled_steps,
    steps_for_events,
)
from fedunlearn.privacy.accounting.events import (
    Contraction,
    Event,
    GaussianRelease,
    NoiseFree,
    PoissonSampledGaussian,
    PostProcessing,
    ShiftedIteration,
    sampled_gaussian,
)
from fedunlearn.privacy.accounting.groups import (
    capacity,
    chained_mu,
    cumulative,
    group_epsilon,
    group_mu,
    group_of_pair,
    sequential_mus,
)
from fedunlearn.privacy.accounting.opinions import (
    Contradiction,
    Opinion,
    delta_of_events,
    epsilon_of_events,
    mu_of_events,
)
from fedunlearn.privacy.accounting.requesters import (
    Leaver,
    factor_below,
    leaver,
    leavers,
    left_for_next,
    mu_for_each,
    sigma_below,
)
from fedunlearn.privacy.accounting.views import Rule, View, all_views, view_of

__all__ = [
    "Contraction",
    "Contradiction",
    "Event",
    "GaussianRelease",
    "Leaver",
    "NoiseFree",
    "Opinion",
    "PoissonSampledGaussian",
    "PostProcessing",
    "Rule",
    "ShiftedIteration",
    "View",
    "all_views",
    "capacity",
    "chained_mu",
    "cumulative",
    "delta_of_events",
    "epsilon_of_events",
    "factor_below",
    "group_epsilon",
    "group_mu",
    "group_of_pair",
    "leaver",
    "leavers",
    "left_for_next",
    "load_for_events",
    "mu_for_each",
    "mu_of_events",
    "noise_for_events",
    "sampled_capacity",
    "sampled_gaussian",
    "sampled_noise",
    "sampled_steps",
    "sequential_mus",
    "sigma_below",
    "steps_for_events",
    "view_of",
]
