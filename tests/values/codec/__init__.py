"""What values are and become: arguments, plans, ticks, retries, codecs. Most of it needs no database."""
