"""`python -m docendo` is the command `docendo`."""

import sys

from docendo.cli import main

if __name__ == "__main__":
    sys.exit(main())
