"""Write the images of folders, tars, Parquet files and TFDS into ArrayRecord files, in parallel processes or on Apache Beam."""
