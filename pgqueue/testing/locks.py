"""Named locks in a test: taken in the test's transaction, which no other connection sees."""

from pgqueue.client.lock_renewer import Hold, LockRenewer


class UnrenewedLocks(LockRenewer):
    """Renews no lock, and lets nobody wait for one: in a test nobody could release it meanwhile."""

    waits = False

    def add(self, hold: Hold) -> None:
        """Do nothing: the lock ends with the test at the latest."""

    def drop(self, hold: Hold) -> None:
        """Do nothing: no lock is renewed."""

    def free(self, hold: Hold) -> None:
        """Do nothing: the lock ends with the test."""

    def close(self) -> None:
        """Close nothing: there is no thread."""
