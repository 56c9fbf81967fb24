listen "pgqueue"
