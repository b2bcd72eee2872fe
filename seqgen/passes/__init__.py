"""Spec -> IR and IR -> IR: lowering, simplification, structure, differentiation, ranges."""
