"""Feature extraction: see `univa.media.extract`."""

from univa.media.extract import ExtractAudio, ExtractVision, MediaEncoder

__all__ = ["ExtractAudio", "ExtractVision", "MediaEncoder"]
