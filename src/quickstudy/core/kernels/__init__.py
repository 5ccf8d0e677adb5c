"""Speed only: layers for inner loops. May be skipped by readers."""
