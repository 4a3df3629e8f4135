"""The two ways in which a command ends with one line instead of a traceback."""


class InputError(ValueError):
    """What the user gave cannot be used: a name, a folder, a file, a number. The command line prints it and
    exits with code 2.
    """


class RunError(RuntimeError):
    """A run cannot go on (a NaN loss, say) although its input was fine. The command line prints it and exits
    with code 1.
    """
