"""`tlg convert-release` as a script: python data_scripts/convert_release.py CHECKPOINT [--out FILE] [--back]."""

import sys

from tlg_lib.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert-release", *sys.argv[1:]]))
