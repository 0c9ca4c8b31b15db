"""The error that a user can act on."""


class UserError(ValueError):
    """Something the user gave is wrong; the message is one sentence that says what and what to do.

    The command line prints the sentence without a traceback and exits with status 2.
    """
