"""The one exception a user is meant to see."""


class ArragError(Exception):
    """A mistake the user can mend.

    The message names the file, the field, what was found and what to do. The command line prints
    it on one line and exits with status 2; every other exception is a defect of arrag.
    """
