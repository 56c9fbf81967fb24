"""All checks of workflows, steps, calls and events."""

from . import checks_calls, checks_growth, checks_steps, checks_workflows
from .violation import Violation
from .woven import Woven


def check_woven(woven: Woven) -> list[Violation]:
    """Return every violation that the rows prove."""
    steps = checks_steps.Steps(woven)
    checks = (*checks_workflows.CHECKS, *checks_growth.CHECKS)
    found = [violation for check in checks for violation in check(woven)]
    return found + [violation for check in (*checks_steps.CHECKS, *checks_calls.CHECKS) for violation in check(steps)]
