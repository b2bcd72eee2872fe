"""GPU descriptions, cross-compilation and resource reports; knows nothing of the compiler."""
