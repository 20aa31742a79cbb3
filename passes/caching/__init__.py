"""How long caches live: prefixes, turns, and other machines."""
