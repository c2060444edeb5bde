"""Methods that issue a certificate."""
