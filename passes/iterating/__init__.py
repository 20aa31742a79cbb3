"""Whole sequences that are refined in iterations, and what iterations may leave out."""
