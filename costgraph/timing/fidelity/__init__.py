"""Formulas that meet measured time: closed forms fitted on timings, and their bands."""
