"""PASCAL VOC 2012 and SBD as Pascal-5i: the same as `tlg data voc`, with its options."""

import sys

from tlg_lib.cli import main

if __name__ == "__main__":
    main(["data", "voc", *sys.argv[1:]])
