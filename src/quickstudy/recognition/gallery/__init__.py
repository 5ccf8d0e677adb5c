"""The gallery: named embeddings in a SQL database."""
