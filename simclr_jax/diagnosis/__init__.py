"""What can be known of an encoder without labels: measures of its representations, a score, and plain sentences."""
