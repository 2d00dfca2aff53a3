"""The one error that a user can mend: shown as a single line, exit code 2, no traceback."""


class UserError(Exception):
    """Bad input. The message names the input, what was expected and how to mend it, in one line."""
