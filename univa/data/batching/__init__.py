"""From a corpus to batches: samplers, collation, normalization."""
