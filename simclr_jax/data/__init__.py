"""Sources of images, their order, and batches."""
