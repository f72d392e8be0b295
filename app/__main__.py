"""`python -m app` is the `lirf` command."""

from app.cli import main

main()
