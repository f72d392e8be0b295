"""`python -m tests.e2e --help`: deposits under fire.

Forks import the main module again: so it imports nothing but where it is run.
"""

if __name__ == "__main__":
    import typer

    from tests.e2e.chaos import main

    typer.run(main)
