"""Feature maps: what of a sample reaches the model. Nothing in them may depend on data that can be deleted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.models.extractor import Progress, build_extractor, fit_head, one_thread, train_network
from fedunlearn.models.model import Model, channels_last
from fedunlearn.models.settings import ModelSettings

SHRINK = 1.0 - 2.0**-20
"""Factor that keeps a row's norm below one after its entries are rounded to float32 (relative error 2^-24)."""
POWER, FLOOR = -0.25, 1e-4
"""Power of the public covariance that spreads frozen features, and what is added to its eigenvalues.

A network that separates the public classes squeezes what it does not need into directions of tiny variance. Halfway
whitening (a power of -1/2 would be whole) makes them usable for a strongly convex head.
"""
_BATCH = 64
"""Samples that pass through an extractor at once; a last, shorter batch is filled up with zeros."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A public, per-record map from stored samples to what the model is given.

    ``raw``: the samples as they are (uint8 stays uint8; the model scales it by 1/255). ``unit``:
    ``[x/||x||, 1]/sqrt(2)``. ``frozen``: ``[f/||f||, 1]/sqrt(2)`` with ``f = A h/||h|| + b``, where ``h`` is the output
    of an extractor trained on public samples and A, b centre and spread the public ones. Rows of the last two have a
    Euclidean norm of at most one, checked in float64, as the rounding bound of the tolerance certificate (T3) needs; a
    record with ``x = 0`` or ``f = 0`` keeps the constant entry alone.

    Attributes:
        input_shape: shape of one stored sample.
        extractor: the extractor's network (``frozen`` only).
        weights: its parameters, (extractor.dim,) float32.
        spread: the public affine map [A, b], (width, width + 1) float64.
        training_rows: row numbers of the samples it was trained on, int64, increasing.
    """

    kind: Literal["raw", "unit", "frozen"]
    input_shape: tuple[int, ...]
    extractor: Model | None = None
    weights: NDArray[np.float32] | None = None
    spread: NDArray[np.float64] | None = None
    training_rows: NDArray[np.int64] | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what reaches the model for one sample."""
        if self.kind == "raw":
            return self.input_shape
        if self.extractor is None:
            return (int(np.prod(self.input_shape)) + 1,)
        return (self.extractor.num_classes + 1,)

    @property
    def training_rows_sha256(self) -> str | None:
        """SHA-256 of the row numbers the extractor was trained on; None without an extractor."""
        return None if self.training_rows is None else _sha256(self.training_rows)

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 of the extractor's parameters and of the affine map; None without an extractor."""
        return None if self.weights is None or self.spread is None else _sha256(self.weights, self.spread)

    def apply(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return what the model is given for stored samples (n, ...): (n, *output_shape), float32 unless ``raw``.

        UserError when a feature is not a finite number.
        """
        if self.kind == "raw":
            return inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32, copy=False)
        if self.kind == "unit":
            vectors = inputs.reshape(len(inputs), int(np.prod(self.input_shape))).astype(np.float64)
        else:
            assert self.extractor is not None and self.weights is not None and self.spread is not None
            vectors = _directions(self.extractor, self.weights, inputs) @ self.spread[:, :-1].T + self.spread[:, -1]
        return unit_rows(vectors)

    def refuse_overlap(self, client_rows: NDArray[np.int64]) -> None:
        """Raise UserError if the extractor was trained on any of these rows, which clients may ask to delete."""
        if self.training_rows is None:
            return
        common = np.intersect1d(self.training_rows, client_rows)
        if len(common):
            raise UserError(
                f"model.features = 'frozen' needs an extractor trained on public samples only, but {len(common)} of "
                f"its training samples (row {common[0]} first) belong to clients that may ask for deletion"
            )

    def to_spec(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the map as JSON and arrays, from which :meth:`from_spec` builds it in another process."""
        spec: dict[str, Any] = {"kind": self.kind, "input_shape": list(self.input_shape), "extractor": None}
        if self.extractor is None or self.weights is None or self.spread is None or self.training_rows is None:
            return spec, {}
        spec |= {
            "extractor": self.extractor.spec,
            "weights_sha256": self.weights_sha256,
            "training_rows_sha256": self.training_rows_sha256,
        }
        return spec, {
            "features.weights": self.weights,
            "features.spread": self.spread,
            "features.training_rows": self.training_rows,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> FeatureMap:
        """Build the map of :meth:`to_spec`; other entries of ``arrays`` are ignored. UserError if a hash differs."""
        shape = tuple(int(side) for side in spec["input_shape"])
        if spec["extractor"] is None:
            return cls(spec["kind"], shape)
        weights, spread, rows = (arrays[f"features.{name}"] for name in ("weights", "spread", "training_rows"))
        made = cls(spec["kind"], shape, Model.from_spec(spec["extractor"]), weights, spread, rows)
        if (made.weights_sha256, made.training_rows_sha256) != (spec["weights_sha256"], spec["training_rows_sha256"]):
            raise UserError("the feature extractor does not have the content hash it was sent with; send it again")
        return made


def unit_rows(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return ``[v/||v||, 1]/sqrt(2)`` for every row of (n, p): (n, p + 1) float32 with norm at most one in float64.

    A zero row becomes ``[0, 1]/sqrt(2)``. UserError when an entry is not a finite number.
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    with np.errstate(invalid="ignore"):  # an infinite entry gives NaN, which is refused below
        scaled = vectors / np.where(largest > 0.0, largest, 1.0)  # so that no square overflows or vanishes
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    rows = np.empty((len(vectors), vectors.shape[1] + 1), dtype=np.float64)
    rows[:, :-1] = scaled / np.where(norms > 0.0, norms, 1.0)
    rows[:, -1] = 1.0
    rounded = (rows * (SHRINK / np.sqrt(2.0))).astype(np.float32)
    if not (np.linalg.norm(rounded.astype(np.float64), axis=1) <= 1.0).all():
        raise UserError("a sample has a feature that is not a finite number, so its row cannot be scaled to norm one")
    return rounded


def train_extractor(
    inputs: NDArray[Any],
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    settings: ModelSettings,
    num_classes: int,
    *,
    seed: int,
    progress: Progress | None = None,
) -> FeatureMap:
    """Return the frozen feature map of an extractor trained on public samples, and on nothing else.

    ``inputs`` (m, ...) and ``labels`` (m,) are the public clients' training samples, ``rows`` (m,) their row numbers in
    the data set, which are kept for :meth:`FeatureMap.refuse_overlap`. ``progress("extractor", epoch, epochs)`` is
    called after every epoch. UserError when there are no public samples or the extractor does not fit them.
    """
    if not len(rows):
        raise UserError(
            "model.features = 'frozen' needs public clients to train the extractor on, but there are no samples; "
            "name some in data.public_clients"
        )
    shape = tuple(int(side) for side in inputs.shape[1:])
    model = build_extractor(settings, shape)
    weights = train_network(model, inputs, labels, num_classes, settings, seed, progress)
    spread = _spreading(_directions(model, weights, inputs))
    return FeatureMap("frozen", shape, model, weights, spread, np.sort(np.asarray(rows, dtype=np.int64)))


def public_head(
    features: FeatureMap, inputs: NDArray[Any], labels: NDArray[np.int64], num_classes: int, lam: float
) -> NDArray[np.float64]:
    """Return the softmax head (num_classes * p,) float64 fitted to public samples alone, without bias.

    It minimises the mean loss of the samples plus ``(lam/2)||theta||^2``; it serves as a control, and as a start that
    no deletion can concern. ``features`` must be ``unit`` or ``frozen``.
    """
    if features.kind == "raw":
        raise ValueError("a public head needs features of kind 'unit' or 'frozen'")
    return fit_head(features.apply(inputs), labels, num_classes, lam)


def _directions(extractor: Model, weights: NDArray[np.float32], inputs: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``h/||h||`` (n, width) of the extractor's outputs, always computed in batches of the same size.

    A matrix product may round differently for another number of rows; a fixed size keeps a record's features nearly
    independent of the records it is computed with.
    """
    out = np.zeros((len(inputs), extractor.num_classes), dtype=np.float64)
    with torch.no_grad(), one_thread():
        network = extractor.load(extractor.module(), torch.from_numpy(weights)).eval()
        if extractor.takes_images:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for start in range(0, len(inputs), _BATCH):
            part = inputs[start : start + _BATCH]
            x = extractor.prepare(part)
            x = torch.cat([x, x.new_zeros((_BATCH - len(part), *x.shape[1:]))])
            if x.dim() == 4:
                x = channels_last(x.permute(0, 2, 3, 1))
            out[start : start + _BATCH] = network(x)[: len(part)].numpy()
    norms = np.linalg.norm(out, axis=1, keepdims=True)
    return out / np.where(norms > 0.0, norms, 1.0)


def _spreading(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``[A, b]`` with ``A = (C + FLOOR I)^POWER`` and ``b = -A m`` from the mean m and covariance C of rows."""
    mean = directions.mean(axis=0)
    centred = directions - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(directions))
    matrix = (vectors * (np.maximum(values, 0.0) + FLOOR) ** POWER) @ vectors.T
    return np.column_stack([matrix, -matrix @ mean])


def _sha256(*arrays: NDArray[Any]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
