"""What single nodes of a network hold: how far influence reaches, how a network recovers, how far models are apart."""
