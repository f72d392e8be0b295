"""`python -m tests.e2e --help`: the chaos test.

Each fork imports the main module again, so the imports stand below the condition.
"""

if __name__ == "__main__":
    import typer

    from tests.e2e.chaos import main

    typer.run(main)
