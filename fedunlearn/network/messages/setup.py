"""What a host may be set up with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from fedunlearn.data.settings import DataSettings
from fedunlearn.errors import UserError
from fedunlearn.network.messages.kinds import Refused, Spec, at_least, check_arrays, check_params

_SETUP = {
    "block": list[int], "num_nodes": int, "workers": int, "device": Literal["cpu", "cuda"], "room": int | None,
    "scratch": str | None, "dataset": str, "data": dict[str, Any] | None, "model": dict[str, Any],
    "features": dict[str, Any],
}  # fmt: skip
_MODEL = {
    "name": str, "num_classes": int, "input_shape": list[int], "bias": bool, "activation": Literal["relu", "smelu"],
    "smelu_width": float, "hidden": list[int], "checkpoint": str | None, "checkpoint_sha256": str | None,
}  # fmt: skip
_FEATURES = {"kind": Literal["raw", "unit", "frozen"], "input_shape": list[int], "extractor": dict[str, Any] | None}
_HASHES = {"weights_sha256": str, "training_rows_sha256": str}


def check_setup(params: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Check what a host is set up with; UserError, one sentence, if it is not what a conductor may send.

    Whether the data have so many vertices, and the content hashes agree, is checked where they are read.
    """
    try:
        check_params(params, _SETUP, {"part": str})
        at_least(params, num_nodes=1, workers=0, room=0)
        if params["workers"] > 16 * (os.cpu_count() or 1) + 64:
            raise Refused(f"parameter 'workers' = {params['workers']} is more than this machine could start")
        low, high = params["block"] if len(params["block"]) == 2 else (1, 0)
        if not 0 <= low <= high <= params["num_nodes"]:
            raise Refused("parameter 'block' is not a range of vertices")
        if params["data"] is not None:
            try:
                DataSettings(**params["data"])
            except (ValidationError, TypeError):
                raise Refused("parameter 'data' does not describe a data set") from None
        _model(params["model"])
        features = params["features"]
        frozen = isinstance(features, dict) and features.get("extractor") is not None
        check_params(features, {**_FEATURES, **(_HASHES if frozen else {})})
        _shape(features["input_shape"])
        needed: dict[str, Spec] = {}
        if frozen:
            _model(features["extractor"])
            needed = {
                "features.weights": Spec("float32", ("p",)), "features.spread": Spec("float64", ("q", "r")),
                "features.training_rows": Spec("int64", ("k",), low=0),
            }  # fmt: skip
        nodes = params["num_nodes"]
        check_arrays(arrays, needed, {"order": Spec("int64", ("N",), low=0, high="N")}, {"N": nodes})
        if "order" in arrays and len(np.unique(arrays["order"])) < nodes:
            raise Refused("array 'order' names a vertex twice")
    except Refused as error:
        raise UserError(f"a host was sent a malformed 'setup': {error}") from None


def _model(spec: Any) -> None:
    check_params(spec, _MODEL)
    at_least(spec, num_classes=1)
    _shape(spec["input_shape"])
    if spec["smelu_width"] <= 0 or any(width < 1 for width in spec["hidden"]):
        raise Refused("parameter 'model' has a width that is not above zero")


def _shape(shape: Sequence[int]) -> None:
    if not 1 <= len(shape) <= 3 or any(not 1 <= side < 2**31 for side in shape):
        raise Refused("parameter 'input_shape' is not the shape of a sample")
