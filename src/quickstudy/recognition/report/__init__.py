"""The report on a recognizer: figures, pictures, the page."""
