"""COCO 2014 as COCO-20i: the same as `tlg data coco`, with its options."""

import sys

from tlg_lib.cli import main

if __name__ == "__main__":
    main(["data", "coco", *sys.argv[1:]])
