"""Where tensors are kept and who computes with them: host memory, storage, memory that computes."""
