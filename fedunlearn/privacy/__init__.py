"""What may be said about a release, and how sure one can be: noise calibration, certificates, and their verification.

The room holds arithmetic only: the exact Gaussian profile, accountants (``accounting``), theorems (``claims``) and the
certificate with its premises. It never sees data or models and imports neither torch nor the network.
"""

from fedunlearn.privacy.certificate import (
    Certificate,
    Kind,
    NoCertificate,
    Noise,
    Premise,
    Status,
    junk_start_limit,
)
from fedunlearn.privacy.certificate_file import read_certificates, write_certificates
from fedunlearn.privacy.claims.tolerance import (
    Calibration,
    calibrate,
    certify,
    joint_sensitivity,
    meets_tolerance,
    mu_over_releases,
    sensitivity,
    stopping_value,
    tolerance_for,
)
from fedunlearn.privacy.claims.tolerance_facts import RunFacts
from fedunlearn.privacy.gaussian import classic_sigma, compose, curve, delta_of, epsilon_of, mu_of, sigma_for
from fedunlearn.privacy.noise import gaussian_noise, publish
from fedunlearn.privacy.settings import PrivacySettings
from fedunlearn.privacy.verify import Check, Report, code_sha256, file_sha256, verify

__all__ = [
    "Calibration",
    "Certificate",
    "Check",
    "Kind",
    "NoCertificate",
    "Noise",
    "Premise",
    "PrivacySettings",
    "Report",
    "RunFacts",
    "Status",
    "calibrate",
    "certify",
    "classic_sigma",
    "code_sha256",
    "compose",
    "curve",
    "delta_of",
    "epsilon_of",
    "file_sha256",
    "gaussian_noise",
    "joint_sensitivity",
    "junk_start_limit",
    "meets_tolerance",
    "mu_of",
    "mu_over_releases",
    "publish",
    "read_certificates",
    "sensitivity",
    "sigma_for",
    "stopping_value",
    "tolerance_for",
    "verify",
    "write_certificates",
]
