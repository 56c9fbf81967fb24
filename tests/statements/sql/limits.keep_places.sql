select "pgqueue".keep_places()
