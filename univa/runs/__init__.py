"""Run folders: layout, log, checkpoints, reading them back."""
