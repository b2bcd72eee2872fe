"""Races of seqgen's operators against the libraries that people use today."""
