"""The paper's own figures, to print beside ours: Zheng, Yu and Xia, ACM MM 2024, Tables 1 to 3."""

from __future__ import annotations

__all__ = ["PAPER", "PAPER_MAIN"]

_FULL, _CL, _ECP, _NONE = "UniVA", "w/o VA-CL", "w/o VA-ECP", "w/o VA-CL, VA-ECP"

# preset -> table -> row -> figures of the row. Acc, micro-F1 and macro-F1 in per cent.
PAPER: dict[str, dict[int, dict[str, tuple[float, ...]]]] = {
    "mosei-roberta": {
        2: {  # Acc, HL, miF1, maF1
            _FULL: (51.3, 0.182, 60.5, 44.4),
            _CL: (50.0, 0.189, 59.3, 43.2),
            _ECP: (51.0, 0.186, 59.8, 42.8),
            _NONE: (49.7, 0.189, 58.2, 39.0),
        },
        3: {  # Acc, miF1
            _FULL: (51.3, 60.5),
            "w/o Vision": (51.1, 59.9),
            "w/o Audio": (49.7, 58.1),
            "w/o Vision, Audio": (50.6, 59.4),
            "w/o Text, Vision": (46.7, 54.5),
            "w/o Text, Audio": (42.3, 48.2),
        },
    },
    "m3ed-roberta": {
        2: {
            _FULL: (50.6, 0.149, 53.4, 40.2),
            _CL: (48.9, 0.157, 51.5, 39.2),
            _ECP: (49.1, 0.154, 51.7, 38.2),
            _NONE: (48.0, 0.160, 51.4, 37.6),
        },
        3: {
            _FULL: (50.6, 53.4),
            "w/o Vision": (49.2, 52.0),
            "w/o Audio": (48.4, 51.4),
            "w/o Vision, Audio": (48.0, 51.6),
            "w/o Text, Vision": (38.8, 41.3),
            "w/o Text, Audio": (40.8, 40.7),
        },
    },
}

# preset -> figures of Table 1: Acc, HL, miF1, maF1.
PAPER_MAIN: dict[str, tuple[float, float, float, float]] = {
    "mosei-roberta": (51.3, 0.182, 60.5, 44.4),
    "mosei-glove": (49.2, 0.205, 57.2, 37.2),
    "m3ed-roberta": (50.6, 0.149, 53.4, 40.2),
    "m3ed-glove": (46.4, 0.159, 49.1, 24.2),
}
