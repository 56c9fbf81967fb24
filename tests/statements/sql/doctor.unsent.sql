select (select g.at from "pgqueue".signal g where not g.seen order by g.id limit 1),
       (select e.at from "pgqueue".awaited_event e where not e.seen order by e.id limit 1)
