listen "pgqueue.ended"
