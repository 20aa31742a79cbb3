"""Files from outside: read as data within bounds, written whole or not at all."""
