"""Rules for PSG records and images: check, repair, statistics, skipped samples."""
