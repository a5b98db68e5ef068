"""The exception for a mistake in what the user gave, and the first line of any other."""

__all__ = ["UserError", "first_line"]


class UserError(Exception):
    """Bad input: a file, an option or a value that the user has to correct.

    The message is one line that names what is wrong (file and row where there is one) and the
    fix. The command line prints it without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """First line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
