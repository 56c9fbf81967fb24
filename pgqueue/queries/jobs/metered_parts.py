"""What the statements that insert jobs have more for metered ones, which wait for their turn in a lane.

Plain jobs have statements of their own, without this: they pay nothing for rules that others have.
"""

from typing import LiteralString

from pgqueue.queries.base import fill

# The lane is part of the header: Python and the SQL function `enqueue` compute it in one way, and what carries the
# headers of a job carries its lane.
LANE: LiteralString = "({headers} #>> '{{$flow,lane}}'::text[])::bigint"
# The lane of a job that is metered, and that it waits. Reads `{headers}`.
TURN_OF: LiteralString = f", {LANE}, 'blocked', 'turn'"
_COLUMNS: LiteralString = ", lane, state, waits_for"
# The headers of a job that has another flow from now on. `{flow}`: null where it stays, JSON's null for none.
TURNED: LiteralString = """case when {flow} is null then {headers}
             when {flow} = 'null'::jsonb then {headers} - '$flow'::text
             else {headers} || jsonb_build_object('$flow'::text, {flow}) end"""

# The parts of a statement whose jobs are all plain, or all metered with one turn.
PLAIN: dict[str, LiteralString] = {"columns": "", "values": "", "state": "'pending'"}
METERED: dict[str, LiteralString] = {
    "columns": _COLUMNS,
    "values": fill(TURN_OF, headers="%(headers)s::jsonb"),
    "state": "'blocked'",
}
# The parts of one whose jobs may be either. Their lane is read once for each, in `given`.
STATE: LiteralString = "case when lane is null then 'pending' else 'blocked' end"
PLAIN_LIST: dict[str, LiteralString] = {**PLAIN, "lane": ""}
METERED_LIST: dict[str, LiteralString] = {
    "columns": _COLUMNS,
    "values": f", lane, {STATE}, case when lane is not null then 'turn' end",
    "state": STATE,
    "lane": "\n           " + fill(LANE, headers="g.headers::jsonb") + " as lane,",
}
