"""More than one token, or less than the whole model, a step."""
