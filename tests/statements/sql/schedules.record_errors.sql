update "pgqueue".schedule s set error = case when e.dropped then s.error else e.error end,
    edit_error = case when e.dropped then e.error else s.edit_error end,
    edit_asked = case when not e.dropped then s.edit_asked end
from unnest(%(names)s::text[], %(errors)s::text[], %(drops)s::bool[]) as e(name, error, dropped)
where s.name = e.name and (e.dropped or s.error is distinct from e.error)
