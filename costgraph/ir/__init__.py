"""What a model is: tensors, operations, graphs, regions, programs."""
