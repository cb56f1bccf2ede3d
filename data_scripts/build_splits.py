"""Split lists of a dataset folder: the same as `tlg data splits`, with its options."""

import sys

from tlg_lib.cli import main

if __name__ == "__main__":
    main(["data", "splits", *sys.argv[1:]])
