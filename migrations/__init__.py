"""Alembic migrations, one set for SQLite and PostgreSQL; `daemon.storage.revision` runs them."""
