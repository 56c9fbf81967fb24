select a.name from "pgqueue".awaited_topic a where not a.complete order by a.name limit 50
