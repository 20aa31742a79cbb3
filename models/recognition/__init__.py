"""Recognition: the operators of traced graphs become the operations of models."""
