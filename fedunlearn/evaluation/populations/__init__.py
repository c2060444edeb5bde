"""Scores over many unlearned and many retrained models, which ask whether the two populations are one."""
