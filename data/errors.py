"""The one line that a mistake gets."""


class UserError(Exception):
    """Something the person at the keyboard can mend; the message says what is wrong and what to do."""


def describe(error: BaseException) -> str:
    """One line that says what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
