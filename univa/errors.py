"""The one exception that stands for a mistake in what the user gave."""

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input: a file, an option or a value that the user has to mend.

    The message is one line that names what is wrong (file and row where there is one) and the
    mend. The command line prints it without a traceback and exits with status 2.
    """
