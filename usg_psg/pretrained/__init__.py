"""Published checkpoints: reading, rules, report."""
