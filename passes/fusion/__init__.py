"""Fewer kernels and less traffic between them."""
