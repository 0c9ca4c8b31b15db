"""The error that a user can act on."""


class UserError(ValueError):
    """Something the user gave is wrong; the message is one sentence that says what and what to do.

    The command line prints the sentence without a traceback and exits with status 2.
    """


def on_one_line(error: Exception) -> str:
    """What another library's error says, fit for the inside of a sentence."""
    return " ".join(str(error).split()).rstrip(".")
