"""Statements about workflows: inserted, moved on, cancelled, retried, read and pruned; and what is gone."""

from pgqueue.queries.workflows.adding import AddingQueries
from pgqueue.queries.workflows.cascade import CascadeQueries
from pgqueue.queries.workflows.gone import GoneQueries
from pgqueue.queries.workflows.inputs import InputQueries
from pgqueue.queries.workflows.prune import PruneWorkflowQueries
from pgqueue.queries.workflows.read import ReadWorkflowQueries
from pgqueue.queries.workflows.retry import RetryQueries
from pgqueue.queries.workflows.settle import SettleQueries
from pgqueue.queries.workflows.streaming import StreamingQueries

__all__ = ["WorkflowQueries"]


class WorkflowQueries(
    AddingQueries,
    StreamingQueries,
    CascadeQueries,
    SettleQueries,
    RetryQueries,
    ReadWorkflowQueries,
    PruneWorkflowQueries,
    InputQueries,
    GoneQueries,
):
    """Statements about workflows, each file of this folder some of them."""
