"""Train: `python -m univa.train PRESET` and `torchrun ... -m univa.train PRESET`."""

import sys

from univa.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
