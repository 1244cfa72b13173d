"""loaderd beside other loaders: the same pictures, crops and batches, in one interleaved run."""
