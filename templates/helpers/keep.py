"""What forward keeps for backward besides its arguments."""

# 2: what is computed before any state is there, and the states before each chunk; 1: without the
# states; 0: nothing. Backward computes the rest again: less memory between forward and backward,
# more time.
KEEP = 2
