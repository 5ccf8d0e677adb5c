"""Learning the space: an embedding in which near means the same class. One paper a file."""
