"""Tools that know nothing of scene graphs."""
