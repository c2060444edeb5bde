"""Methods whose answer has exactly the law of retraining."""
