"""Communication, logging, events and small helpers."""
