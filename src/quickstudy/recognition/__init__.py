"""Recognition: enrol faces, voices, words or sounds from a handful of samples, then verify and identify."""
