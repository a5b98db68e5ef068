"""The switch `authors`: see `univa.config.authors`."""

from univa.config.authors import SETTINGS, as_authors, check_authors

__all__ = ["SETTINGS", "as_authors", "check_authors"]
