"""Accountants: what follows from the noise that was drawn, for everybody who may see what it protects."""
