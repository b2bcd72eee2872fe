"""Search space, benchmark protocol, correctness gate and the study that picks a configuration."""
