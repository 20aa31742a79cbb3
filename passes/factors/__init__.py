"""Products of narrow matrices in place of wide ones, and beside them."""
