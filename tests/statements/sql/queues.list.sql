select l.queue, l.due, l.due_capped, l.running, l.scheduled, l.scheduled_capped, l.oldest_due_seconds, l.paused_at,
       l.paused_until, l.paused_by, l.paused_reason, l.workers, l.slots, l.turn, l.turn_capped,
       l.oldest_turn_seconds
from "pgqueue".queue_load l order by l.queue
