select id, tasks from "pgqueue".worker where lost_at is null
