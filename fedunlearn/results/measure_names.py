"""How the battery's measures are called in tables and figures, and how an estimate is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedunlearn.results.words import number

SECTIONS = {
    "membership": "what the models say about samples: does the forget set look like training data?",
    "shadows": "the same question, asked of whole clients, and with models trained with and without the forget set",
    "distance": "how far outputs and weights are from those of the retrained network",
    "populations": "many models unlearned beside many retrained: can a distribution be told from the other?",
    "relearning": "how fast the forget set is learned again: knowledge that is left makes it fast",
    "backdoor": "a trigger planted in the forget set: does it still work?",
    "network": "what single nodes still hold, by their distance to the client in the graph",
    "side effects": "what forgetting has done to everybody else",
}
"""Sections in the order in which they are printed, each with the question that it answers."""

_WORDS = {
    "auc": "AUC", "tpr": "TPR", "fpr": "FPR", "kl": "KL", "js": "JS", "mia": "MIA", "lira": "LiRA", "ulira": "U-LiRA",
    "rmia": "RMIA", "svc": "SVC", "zrf": "ZRF", "tow": "ToW", "klom": "KLoM", "ain": "AIN", "ece": "ECE", "l2": "L2",
    "asr": "ASR", "neurips": "NeurIPS", "epsilon": "ε", "delta": "δ", "rms": "RMS", "p95": "95th percentile",
    "u_lira": "U-LiRA", "mia_u": "MIA-U", "badnets": "BadNets", "streisand": "Streisand", "brier": "Brier",
    "gini": "Gini",
}  # fmt: skip
_SETS = "forget|retain|test|never_member|never_members|unlearned|retrained|original|control"
_DIRECTION = re.compile(
    rf"(?:^|_)((?:(?:{_SETS})_)?(?:{_SETS})_(?:below|above|vs|against|beside|from|to|over)_(?:{_SETS}))(?=_|$)"
)
_LAST_SET = re.compile(
    r"(.+)(?<!_than)(?<!_of)(?<!_above)(?<!_below)(?<!_from)(?<!_to)_(forget|retain|test|never_members?)"
)
"""A name that ends with the set of samples that it is measured on."""
_TAIL = re.compile(r"_at_(?:(?P<percent>[\d.]+)_?percent|fpr_?(?P<rate>[\d.e-]+))")


def measure_title(name: str) -> str:
    """Return the name of a measure as people read it, with its direction after a colon.

    >>> measure_title("loss_auc_forget_below_test"), measure_title("lira_tpr_at_fpr_0.01_forget_above_never_member")
    ('loss AUC: forget below test', 'LiRA TPR at FPR 0.01: forget above never-member')
    >>> measure_title("kl_model_to_retrained_never_member"), measure_title("loss_rises_more_than_test")
    ('KL model to retrained (never-member)', 'loss rises more than test')
    """
    found = _DIRECTION.search(name)
    if found is None:
        of = _LAST_SET.fullmatch(name)
        return _words(name) if of is None else f"{_words(of[1])} ({_words(of[2])})"
    rest = name[: found.start()] + name[found.end() :]
    direction = _words(found[1])
    return f"{_words(rest)}: {direction}" if rest.strip("_") else direction


def _words(name: str) -> str:
    text = _TAIL.sub(lambda m: f"_at_{m['percent']}_%_FPR" if m["percent"] else f"_at_FPR_{m['rate']}", f"{name}")
    text = text.replace("never_member", "never-member")
    for pair in ("u_lira", "mia_u"):
        text = re.sub(rf"(?:^|(?<=_)){pair}(?=_|$)", _WORDS[pair], text)
    return " ".join(_WORDS.get(word, word) for word in text.split("_") if word)


def value_text(estimate: Mapping[str, Any] | None) -> str:
    """Return the number of an estimate; "–" for None."""
    return "–" if estimate is None else _written(float(estimate["value"]), _wide(estimate))


def interval_text(estimate: Mapping[str, Any] | None) -> str:
    """Return the interval of an estimate, such as ``0.491–0.553`` or ``-0.02, 0.03``; empty where there is none."""
    if estimate is None or estimate.get("low") is None or estimate.get("high") is None:
        return ""
    low, high = float(estimate["low"]), float(estimate["high"])
    if low < 0:
        return f"{number(low, 2)}, {number(high, 2)}"
    if _wide(estimate):
        return f"{low:.3f}–{high:.3f}"
    return f"{number(low, 2)}–{number(high, 2)}"


def _wide(estimate: Mapping[str, Any]) -> bool:
    """Return whether three decimals are enough: no number of the estimate would lose all its digits."""
    numbers = [abs(float(estimate[part])) for part in ("value", "low", "high") if estimate.get(part) is not None]
    return max(numbers) >= 0.01 and max(numbers) < 10


def _written(value: float, decimals: bool) -> str:
    return f"{value:.3f}" if decimals else number(value)
