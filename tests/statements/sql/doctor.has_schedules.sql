select coalesce((select true from "pgqueue".schedule s where s.wake_at > '-infinity' order by s.wake_at limit 1), false)
