"""Audio and video files: decoding, preprocessing, encoders, feature extraction."""
