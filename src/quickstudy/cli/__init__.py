"""The command line, one command a file. Torch is imported by those that need it, so that --help is quick."""
