"""Roles with only the rights that their work needs: which they are, and how a database gets them.

`granted` is the one table of role, object and privilege. The printed script, what is applied, docs/roles.md and the
test of the whole matrix come from it.
"""

from pgqueue.queries.roles import Grant
from pgqueue.roles.applying import Applied, apply, check_prefix, reapply, script
from pgqueue.roles.granted import ROLES, granted

__all__ = ["ROLES", "Applied", "Grant", "apply", "check_prefix", "granted", "reapply", "script"]
