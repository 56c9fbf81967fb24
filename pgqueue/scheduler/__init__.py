"""The scheduler: fires schedules. Any number may run; a row lock and a unique key let each tick fire once."""

from pgqueue.scheduler.declarer import Declarer, declare
from pgqueue.scheduler.previewer import Previewer
from pgqueue.scheduler.process import Scheduler, SchedulerThread
from pgqueue.scheduler.settings import SchedulerSettings
from pgqueue.scheduler.ticker import BATCH, Ticker

__all__ = ["BATCH", "Declarer", "Previewer", "Scheduler", "SchedulerSettings", "SchedulerThread", "Ticker", "declare"]
