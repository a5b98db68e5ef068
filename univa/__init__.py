"""UniVA: unimodal valence-arousal driven contrastive learning for emotion recognition.

Zheng, Yu and Xia, ACM Multimedia 2024, https://doi.org/10.1145/3664647.3681638.
"""

__version__ = "0.1.0"
