"""Search in tables of embeddings: nearest images, near-duplicates, clusters."""
