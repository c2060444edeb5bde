"""Methods without a certificate."""
