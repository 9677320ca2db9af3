"""Images in ArrayRecord files: where each record is, and how to read one from a disk or a bucket."""
