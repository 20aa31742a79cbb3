"""A model on a machine: programs become formulas."""
