"""The doctor: looks at the database, the processes and the tasks for what hurts a queue, and says what to do about it.

A check is an entry: `@finds(…)` above a function that yields findings. `catalogue.py` has all of them. No check writes
or locks anything, each has a transaction and two seconds of its own, and one that fails is itself a finding.
"""

from pgqueue.doctor.check import Patient
from pgqueue.doctor.examination import examine
from pgqueue.doctor.finding import Finding, Report, Severity
from pgqueue.doctor.limits import Limits

__all__ = ["Finding", "Limits", "Patient", "Report", "Severity", "examine"]
