"""Data sets of others: fetched from their hosts and brought into PSG's format."""
