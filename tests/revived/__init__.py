"""Programs in the shape of the seeds' READMEs; only the import line differs."""
