"""Scoring a checkpoint: metrics, tables, threshold curves."""
