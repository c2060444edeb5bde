"""Unlearning methods: one file each, found by name through :mod:`fedunlearn.unlearning.registry`."""
