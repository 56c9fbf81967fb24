"""When things tick: plans, policies and the ticks they yield. Pure: no clock, no database."""
