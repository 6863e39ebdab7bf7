"""Dropout at inference."""
