"""The layers, one file each, and what they share."""
