"""The tuning store: SQLAlchemy models, queries and JSONL exchange."""
