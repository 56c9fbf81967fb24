select r.name from "pgqueue".limit_rule r order by r.name
