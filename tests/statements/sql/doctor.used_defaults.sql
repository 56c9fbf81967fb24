select 'activity' where exists (select from "pgqueue".activity_default)
union all select 'job_finished' where exists (select from "pgqueue".job_finished_default)
union all select 'published_event' where exists (select from "pgqueue".published_event_default)
union all select 'transition' where exists (select from "pgqueue".transition_default)
