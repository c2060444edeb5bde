"""``python -m fedunlearn`` is the command ``fedunlearn``."""

from fedunlearn.cli import main

main()
