"""The work of the commands `benchmark ...`, a module each."""
