"""``python -m arrag``: the command line."""

import sys

from arrag.cli import main

if __name__ == "__main__":
    sys.exit(main())
