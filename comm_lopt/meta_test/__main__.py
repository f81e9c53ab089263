"""`python -m comm_lopt.meta_test` is `comm-lopt meta-test`."""

import sys

from comm_lopt.cli import main

if __name__ == "__main__":
    sys.exit(main(["meta-test", *sys.argv[1:]]))
