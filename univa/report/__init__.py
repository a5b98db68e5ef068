"""One self-contained HTML page about runs: `univa report RUN [RUN ...]`.

    cli       the command
    content   what the page shows, as plain data
    cases     which test utterances it shows, and where they lie in valence-arousal space
    page      template, style sheet and script into one file

The template escapes whatever it is given; data for the script is JSON without a `<`.
"""
