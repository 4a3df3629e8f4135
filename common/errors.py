"""Errors that end a command with one line instead of a traceback."""


class InputError(ValueError):
    """A name, folder, file or number from the user is unusable. The command line prints it; exit code 2."""


class RunError(RuntimeError):
    """A run cannot continue (e.g. a NaN loss) with valid input. The command line prints it; exit code 1."""
