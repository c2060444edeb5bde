"""Membership inference: what outputs of models, and shadow models, give away about who was trained on."""
