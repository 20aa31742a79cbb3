"""Numbers of fewer bits."""
