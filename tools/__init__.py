"""What maintains the project: models that ship, pictures and tables of the documentation."""
