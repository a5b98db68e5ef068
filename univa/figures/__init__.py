"""Figures of runs, at the width of a column of a paper: `univa figures RUN [RUN2]`.

    sample        utterances of the training split, embedded by each run
    quality       neighbourhood purity and rank correlation of distances
    maps          t-SNE maps of the embeddings (the slides' Figure 4)
    matrices      emotion correlation (Figure 5), co-occurrence of labels
    curves        training, thresholds
    style         width, letters, colours

Matplotlib and scikit-learn (the extra "figures") are imported when something is drawn.
"""
