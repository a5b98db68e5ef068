"""Valence and arousal: coordinates of emotion words, and scores of each modality."""
