"""Predictions on new dialogues."""
