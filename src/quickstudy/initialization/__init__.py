"""Learning the start: weights from which a few gradient steps suffice. One paper a file."""
