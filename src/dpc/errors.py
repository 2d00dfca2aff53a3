"""``UserError``: an error that the user can mend. The command line shows one line and exits with code 2."""


class UserError(Exception):
    """Bad input. The message names the input, what was expected and how to mend it, in one line."""
