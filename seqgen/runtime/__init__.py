"""Load built operators and keep them in the cache folder; knows nothing of the compiler."""
