"""Alembic migrations. `lirf migrate` brings a database to the newest; `lirf up` does so by itself."""
