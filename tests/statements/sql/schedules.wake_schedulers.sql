select "pgqueue".schedule_wake()
