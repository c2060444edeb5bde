"""One module a theorem: the facts a run reports, and the certificate that follows from them.

Every module defines a frozen dataclass of facts with a ``rule`` name, ``to_dict``/``from_dict``, and a ``certify``.
:func:`rebuild` makes a certificate again from the facts that lie in a ``certificate.json``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from fedunlearn.errors import UserError, listed
from fedunlearn.privacy.certificate import Certificate, Noise

RULES = {
    "tolerance": "fedunlearn.privacy.claims.tolerance",
    "rewind": "fedunlearn.privacy.claims.rewind",
    "walk": "fedunlearn.privacy.claims.walk",
    "correction": "fedunlearn.privacy.claims.correction",
    "message": "fedunlearn.privacy.claims.message",
    "dp-training": "fedunlearn.privacy.claims.dp_training",
}
"""Name of a rule in ``facts.rule`` -> the module with its ``from_facts``."""


def rebuild(
    facts: Mapping[str, Any], epsilon: float, delta: float, *, noise: Noise, hashes: Mapping[str, str]
) -> Certificate:
    """Return the certificate that follows from facts as a certificate file holds them.

    Raises:
        UserError: if the rule or an entry of the facts is unknown or missing.
        NoCertificate: if nothing follows from them.
    """
    rule = facts.get("rule")
    if rule not in RULES:
        raise UserError(f"facts.rule = {rule!r} is not known: it must be one of {listed(RULES)}")
    certificate: Certificate = importlib.import_module(RULES[str(rule)]).from_facts(
        facts, epsilon, delta, noise=noise, hashes=hashes
    )
    return certificate
