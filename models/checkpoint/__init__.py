"""Checkpoints as they are stored: which matrix of a file has which format."""
