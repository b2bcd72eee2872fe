"""Plan -> source text: Jinja environment, formatting, provenance."""
