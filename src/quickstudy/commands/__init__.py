"""The commands. Torch is imported by those that need it, so that --help is quick."""
