unlisten "pgqueue"
