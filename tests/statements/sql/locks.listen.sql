listen "pgqueue.locks"
