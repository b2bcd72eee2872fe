"""seqgen: from the equations of a recurrence to tuned Triton kernels."""

__version__ = "0.1.0"
