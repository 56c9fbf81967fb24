"""The pages: each reads what it shows, by six statements at most, and names its template."""
