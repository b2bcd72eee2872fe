"""What the user wrote: model, YAML loader with source spans, Python builder, expressions."""
