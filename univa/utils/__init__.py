"""Helpers without knowledge of emotions: files, console, processes, text files."""
