"""The schema of ``summary.json``: what a run says about itself in one file.

The classes are the documentation too: :func:`~fedunlearn.results.fields.field_table` turns them into the tables of
docs/results.md. Every table may hold further entries, which readers should ignore; a null says that a number does not
exist or is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from fedunlearn.results.fields import Entry, fitted

SCHEMA: Literal["fedunlearn/summary/2"] = "fedunlearn/summary/2"


class DataEntry(Entry):
    """The data set."""

    name: str = Field(description="name of the data set")
    synthetic: bool = Field(default=False, description="whether the samples were generated")
    clients: int | None = Field(default=None, description="train clients, one on every vertex of the graph")
    samples: int | None = Field(default=None, description="their training samples, before any deletion")
    sha256: str | None = Field(default=None, description="hash of the whole data set's content")


class TopologyEntry(Entry):
    """The graph the run started with."""

    nodes: int = Field(ge=1, description="vertices")
    edges: int = Field(ge=0, description="undirected edges")
    generator: str = Field(description="name of the generator, or `file`")
    mixing: str = Field(description="rule of the mixing matrix W")
    spectral_gap: float | None = Field(description="1 − ρ")
    rho: float | None = Field(description="ρ, the second-largest modulus of an eigenvalue of W")
    mixing_time: float | None = Field(description="rounds until every entry of the power of W is within 1/N of 1/N")


class ModelEntry(Entry):
    """What was trained."""

    name: str = Field(description="architecture")
    features: str = Field(description="what it sees: `raw`, `unit` or `frozen`")
    parameters: int = Field(ge=1, description="length of the parameter vector")


class SpreadEntry(Entry):
    """A statistic over the nodes' own models."""

    mean: float = Field(description="mean over nodes")
    std: float = Field(description="standard deviation over nodes (of the population, not of a sample)")
    min: float = Field(description="the worst node")
    max: float = Field(description="the best node")


class MeasuredEntry(Entry):
    """One model on every set of samples; accuracies are shares in [0, 1]."""

    test_accuracy: float | None = Field(ge=0, le=1, description="test samples of all train clients")
    test_loss: float | None = Field(default=None, description="mean cross-entropy on the same samples, in nats")
    retain_accuracy: float | None = Field(ge=0, le=1, description="training samples that nobody asked to delete")
    forget_accuracy: float | None = Field(ge=0, le=1, description="training samples that the requests delete")
    never_member_accuracy: float | None = Field(ge=0, le=1, description="samples of clients that never took part")
    node_test_accuracy: SpreadEntry | None = Field(default=None, description="test accuracy of the nodes' own models")
    membership_auc_forget_vs_test: float | None = Field(
        default=None, ge=0, le=1,
        description="loss-threshold membership inference; 1: every deleted sample looks like a member, 0.5: as test",
    )  # fmt: skip


class PremiseEntry(Entry):
    """A condition of the theorem."""

    name: str = Field(description="the condition")
    status: Literal["enforced", "measured", "assumed"] = Field(description="how the run met it")
    detail: str = Field(description="one sentence")


class CertificateEntry(Entry):
    """The certificate of the release after the request; `certificate.json` has it in full."""

    kind: str = Field(description="what the release is compared with, in one word (docs/certificates.md)")
    epsilon: float = Field(description="ε of the claim")
    delta: float = Field(description="δ of the claim")
    sigma: float = Field(
        description="standard deviation of the noise on each parameter; `differential-privacy`: in a step of training"
    )
    sensitivity: float = Field(
        description="proved bound on the L2 distance of the noise-free vectors; `differential-privacy`: of a step"
    )
    valid: bool = Field(description="whether every premise was enforced")
    worth: str = Field(description="how often the best observer guesses right; begins with `vacuous` where always")
    theorem: str = Field(description="the statement that is invoked")
    scope: list[str] = Field(description="the threat model, which no code can enforce")
    premises: list[PremiseEntry] = Field(description="the conditions, as below")


class CostEntry(Entry):
    """What an answer took."""

    seconds: float = Field(ge=0, description="wall-clock seconds on this machine")
    gradients: float = Field(ge=0, description="gradients of the whole network: passes over its training samples")
    hvps: float = Field(ge=0, description="Hessian-vector products of the whole network")
    messages: float = Field(ge=0, description="messages between vertices")
    bytes: float = Field(ge=0, description="their size")
    network_seconds: float = Field(ge=0, description="simulated seconds on the links of `settings.toml`")


class RetrainCostEntry(CostEntry):
    """What retraining took."""

    cached: bool = Field(
        default=False, description="whether the training came from the cache; `seconds` are then those it took once"
    )
    together: int = Field(
        default=1, ge=1, description="networks trained side by side, this one among them; `seconds` hold its share"
    )


class ControlEntry(CostEntry):
    """The last request's answer reached from another start, without private data: what it took, and how good it is."""

    test_accuracy: float | None = Field(
        ge=0, le=1, description="of the vector that was reached, before noise; of a junk start, after it"
    )
    allowed_difference: float | None = Field(
        default=None, description="junk start: how much of any score the certificate lets the trained start account for"
    )


class PreparationEntry(Entry):
    """What the method built from public data, once, before training; no request's cost holds a part of it."""

    what: str = Field(description="what was built")
    seconds: float = Field(ge=0, description="wall-clock seconds it took in this run")
    built_in: float = Field(ge=0, description="seconds it took when it was built; the same where `cached` is false")
    cached: bool = Field(description="whether an earlier run had built it from the same public data")
    without: str = Field(description="the control that answers without it")
    break_even: int | None = Field(
        default=None, ge=1,
        description="requests after which building it has paid for itself, by the last request and the control; null "
        "where the control was not run, or was no slower",
    )  # fmt: skip


class AnsweringEntry(Entry):
    """When a request was answered on a network with faults, and by whom."""

    round: int = Field(ge=0, description="round of the trace in which it was answered")
    waited: int = Field(ge=0, description="rounds of the trace that passed before")
    asker_takes_part: bool | None = Field(
        description="whether all nodes that asked were among those who answer; null: the operator asked"
    )
    participants: int = Field(ge=0, description="nodes that gave the answer, and that hold it")
    alive: int = Field(ge=0, description="nodes that have not left for good, here or away")
    stale: int | None = Field(
        ge=0,
        description="nodes that hold a model from before the release until they adopt one; null: nothing was released",
    )  # fmt: skip


class RequestEntry(Entry):
    """One deletion request and its answer, in the order of answering."""

    request: dict[str, Any] = Field(
        description="the request, resolved: `level`, `client`, `label`, number of `samples`, who `leaves`, `text`; "
        "`asked`: the numbers of the experiment's requests that are answered here, `askers`: who asked (null: operator)"
    )
    method: str = Field(description="unlearning method")
    certificate: CertificateEntry | None = Field(description="the certificate, or null")
    certificate_reason: str = Field(default="", description="why there is none, in one sentence")
    further_certificates: list[CertificateEntry] = Field(
        default=[], description="what holds for other observers, such as those who saw the messages"
    )
    distance_to_retrained: float | None = Field(
        default=None, ge=0, description="largest L2 distance of a node to the retrained network, before noise on both"
    )
    distance_before: float | None = Field(default=None, ge=0, description="the same before the request was answered")
    prediction_distance_to_retrained: float | None = Field(
        default=None, ge=0, le=1, description="mean total variation of predictions, largest over nodes"
    )
    influence: dict[str, Any] | None = Field(default=None, description="predicted and measured influence of the leaver")
    faults: AnsweringEntry | None = Field(default=None, description="who answered, on a network with faults")
    cost: CostEntry = Field(description="what the answer took")
    retrain_cost: RetrainCostEntry | None = Field(default=None, description="what retraining took")
    controls: dict[str, ControlEntry] = Field(
        default={}, description="other ways to the same answer, by name (with `evaluation.controls`, last request)"
    )


class RefusalEntry(Entry):
    """A request that was not answered (docs/requests.md)."""

    number: int = Field(ge=0, description="its place among the requests of `settings.toml`")
    level: str = Field(description="`sample`, `class` or `client`")
    client: int | None = Field(description="client whose samples were to go")
    label: str | int | None = Field(description="class that was to go, as it was asked for")
    by: int | None = Field(description="client who asked; null: the operator")
    at: float = Field(ge=0, description="day on which it arrived")
    rule: str = Field(description="key of `[policy]` whose rule it broke")
    reason: str = Field(description="why, in one sentence that names what is allowed")


class SecondsEntry(Entry):
    """Wall-clock seconds of the phases; every entry may be missing."""

    setup: float | None = Field(default=None, description="data, features, hosts")
    train: float | None = Field(default=None, description="training of the original network")
    retrain: float | None = Field(default=None, description="all retraining")
    unlearn: float | None = Field(default=None, description="answers to all requests")
    evaluate: float | None = Field(default=None, description="all measuring")
    total: float | None = Field(default=None, description="from beginning to end, as it was for this run")
    cached: list[str] = Field(
        default_factory=list,
        description="phases whose seconds hold those of a training that an earlier run did: `train`, `retrain`",
    )
    shared: list[str] = Field(
        default_factory=list,
        description="phases whose seconds hold shares of a training of several networks side by side",
    )


class CacheEntry(Entry):
    """Trained networks that this run took from the cache or left there; it changes no other number."""

    used: bool = Field(description="whether this run looked for trained networks and stored its own")
    hits: list[str] = Field(description="trainings that were found: `train`, `retrain <request>`")
    purged: list[str] = Field(description="entries trained with data deleted since that were deleted (secret noise)")
    kept: list[str] = Field(description="entries trained with data deleted since that are still there")


class HostsEntry(Entry):
    """Who carried the vertices, and what the conductor and the hosts sent each other; it changes no other number."""

    count: int = Field(ge=1, description="hosts, each with a block of vertices")
    workers: int = Field(ge=0, description="worker processes of all hosts; 0: none beside the hosts' own")
    cut_edges: int = Field(ge=0, description="edges of the graph at the start between vertices of different hosts")
    border_share: float = Field(ge=0, le=1, description="share of vertices whose row leaves its host in a gossip round")
    messages: int = Field(ge=0, description="messages from the conductor to hosts, each of which was answered")
    bytes_sent: int = Field(ge=0, description="bytes of the arrays in them")
    bytes_received: int = Field(ge=0, description="bytes of the arrays in the answers")
    bytes_shared: int = Field(default=0, ge=0, description="bytes of rows that hosts on one machine read of each other")


class FaultsEntry(Entry):
    """What the faults of the training rounds were: a function of settings, graph and seed (docs/faults.md)."""

    rounds: int = Field(ge=0, description="rounds of the training")
    active_mean: float = Field(default=1.0, ge=0, le=1, description="share of nodes that took part, mean over rounds")
    active_least: float = Field(default=1.0, ge=0, le=1, description="share of the nodes in the round with fewest")
    links_up_mean: float = Field(default=1.0, ge=0, le=1, description="share of the links that worked between them")
    adoptions: int = Field(default=0, ge=0, description="models that nodes took over when they came back")
    sent: int = Field(default=0, ge=0, description="messages between nodes; none where a server averages")
    lost: int = Field(default=0, ge=0, description="of them, messages that never arrived")
    late: int = Field(default=0, ge=0, description="of them, messages that came one round late or more")
    dropped: int = Field(default=0, ge=0, description="messages that arrived where nobody took part")
    contraction: float | None = Field(
        default=None, description="factor by which a round shrank the distance of the models to their mean"
    )
    effective_gap: float | None = Field(default=None, description="1 - contraction")
    node_weight_least: float | None = Field(default=None, description="smallest mean push-sum weight of a node")
    node_weight_most: float | None = Field(default=None, description="largest mean push-sum weight of a node")
    by_round: dict[str, list[float]] = Field(default={}, description="numbers of every round, by name")


class Summary(Entry):
    """A whole run."""

    schema_: Literal["fedunlearn/summary/2"] = Field(default=SCHEMA, alias="schema", description="this version")
    name: str = Field(description="name of the experiment")
    seed: int = Field(description="seed of everything that was drawn")
    versions: dict[str, str] = Field(description="Python, this package and the libraries that decide numbers")
    data: DataEntry = Field(description="the data set")
    topology: TopologyEntry = Field(description="the graph")
    model: ModelEntry = Field(description="the model")
    models: dict[str, MeasuredEntry] = Field(
        description="`original`, `retrained`, `unlearned`, then controls such as `public_head`"
    )
    requests: list[RequestEntry] = Field(description="the requests that were answered")
    refused: list[RefusalEntry] = Field(default=[], description="the requests that were refused")
    notes: list[str] = Field(default=[], description="what those who run the network should know, in sentences")
    preparation: PreparationEntry | None = Field(default=None, description="what the method built before training")
    seconds: SecondsEntry = Field(description="time of the phases")
    cache: CacheEntry | None = Field(default=None, description="what was taken from the cache, and what is left there")
    memory: str | None = Field(
        default=None, description="what did not fit in memory, and where it was kept, in one sentence"
    )
    faults: FaultsEntry | None = Field(default=None, description="what went wrong on the network, with `[faults]`")
    hosts: HostsEntry | None = Field(default=None, description="where the run was carried out")
    resumed: list[str] = Field(
        default_factory=list, description="where the run was taken up each time it had been interrupted, in a sentence"
    )
    ledger: dict[str, Any] = Field(description="totals of `ledger.json`: messages, bytes")


def check_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary as plain JSON values that fit the schema, as :func:`~fedunlearn.results.fields.fitted` does."""
    return fitted(Summary, {"schema": SCHEMA, **summary}, "summary.json")
