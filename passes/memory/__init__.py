"""How caches lie in memory."""
