"""`pgqueue dev`: everything that a project needs while it is written, in one command."""

from pgqueue.cli.dev.command import dev

__all__ = ["dev"]
