"""Random changes to the items that are trained on."""
