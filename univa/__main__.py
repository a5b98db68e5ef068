"""`python -m univa` is the command `univa`."""

import sys

from univa.cli import main

if __name__ == "__main__":
    sys.exit(main())
