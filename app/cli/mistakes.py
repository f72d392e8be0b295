"""Faults that a user can mend end with one line that says how. Anything else is a fault of the program."""

from typing import Any

from typer.core import TyperGroup

from app.cli.output import accept_any_character, fail


class Commands(TyperGroup):
    """The group of all commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Exit with code 1 after one line about a fault of the user, the machine or a file."""
        accept_any_character()
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output has ended, as `head` does
        except OSError as error:
            file = f" '{error.filename}'" if error.filename else ""
            fail(f"{error.strerror or error}{':' if file else ''}{file}.")
        except UnicodeEncodeError:
            fail("An argument or a file name is not text in UTF-8. Check its special characters.")
        except UnicodeDecodeError:
            fail("A file with settings (`.env`) is not text in UTF-8. Save it as UTF-8.")
        except Exception as error:
            if message := _advice(error):
                fail(message)
            raise


def _advice(error: Exception) -> str | None:
    """What to do about an error of a library or of the service's own code; None for a fault of the program.

    A class is known by its name, since importing all of them would take longer than most commands.
    """
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(error).__mro__}
    if "pydantic_settings.exceptions.SettingsError" in names:
        return f"{error}. Correct the LIRF_... setting: its value must be JSON."
    if "pydantic_core._pydantic_core.ValidationError" in names and error.title == "Settings":  # type: ignore[attr-defined]
        faults = error.errors(include_input=False, include_url=False)  # type: ignore[attr-defined]
        return "; ".join(f"LIRF_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in faults) + "."
    if "sqlalchemy.exc.SQLAlchemyError" in names:
        first_line = (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        return (
            f"The database cannot be used: {first_line}. Check LIRF_DATABASE_URL. `lirf migrate` brings a database to "
            "the newest schema."
        )
    if any(name.startswith(("app.", "lirf_core.")) for name in names) and str(error):
        return str(error)
    return None
