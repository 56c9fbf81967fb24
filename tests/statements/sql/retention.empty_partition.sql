select "pgqueue".empty_partition(%(name)s::text)
