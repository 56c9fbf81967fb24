"""What makes jobs of plans: schedules as rows, their verbs, and who fires them."""
