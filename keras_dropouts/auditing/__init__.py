"""The audit: whether the dropout of a model drops."""
