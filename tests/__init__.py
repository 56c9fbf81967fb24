"""Tests by subject: a room each. What more than one room wants stands here."""
