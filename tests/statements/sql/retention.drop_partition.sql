select "pgqueue".drop_partition(%(name)s::text)
