"""Readers of every kind of data source."""
