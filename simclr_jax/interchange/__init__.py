"""Weights from elsewhere: read a file, name its tensors as our networks do, and prove that both compute the same."""
