"""What else an answer does: to similar people and classes, fairness, calibration, a trigger, and learning again."""
