"""The person who acts, as rows name them."""

import getpass

from pgqueue.config import check_name


def who(by: str | None) -> str:
    """Return the name that was given, or that of the user of this process. Raises InvalidOption for one too long."""
    if by is not None:
        return check_name("by", by)
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        return "somebody"
