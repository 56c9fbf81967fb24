select "pgqueue".maintain()
