"""Comparison with the paper: ablations, published figures, the authors' checkpoints."""
