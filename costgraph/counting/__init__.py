"""What a model costs, exactly: FLOP, bytes, memory."""
