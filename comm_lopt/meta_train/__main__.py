"""`python -m comm_lopt.meta_train` is `comm-lopt meta-train`."""

import sys

from comm_lopt.cli import main

if __name__ == "__main__":
    sys.exit(main(["meta-train", *sys.argv[1:]]))
