"""Images and labels: sources, order, batches."""
