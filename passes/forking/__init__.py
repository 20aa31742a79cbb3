"""Requests that fork into branches: samples, beams, trees of text, points of a skeleton."""
