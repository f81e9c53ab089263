"""`python -m comm_lopt` is `comm-lopt`."""

import sys

from comm_lopt.cli import main

if __name__ == "__main__":
    sys.exit(main())
