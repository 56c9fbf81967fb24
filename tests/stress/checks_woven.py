"""All checks of workflows, steps and events."""

from . import checks_steps, checks_workflows
from .violation import Violation
from .woven import Woven


def check_woven(woven: Woven) -> list[Violation]:
    """Return every violation that the rows prove."""
    steps = checks_steps.Steps(woven)
    found = [violation for check in checks_workflows.CHECKS for violation in check(woven)]
    return found + [violation for check in checks_steps.CHECKS for violation in check(steps)]
