"""Drop-in layers: seqgen's operators under the names and arguments of other libraries."""
