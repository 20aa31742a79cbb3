"""Questions to formulas: comparisons, explanations, searches, sweeps."""
