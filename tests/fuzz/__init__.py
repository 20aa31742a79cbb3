"""Random input to every command: it is used, or refused in one line."""
