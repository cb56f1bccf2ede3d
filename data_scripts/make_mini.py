"""Make the mini benchmark: `python data_scripts/make_mini.py [folder] [--seed 0] [--images 60]`."""

import argparse
import sys
import time

from tlg_lib.data.mini.make import default_root, make_mini, verify_mini
from tlg_lib.errors import TLGError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=default_root(), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=60, help="per class")
    parser.add_argument("--size", type=int, default=128, help="pixels a side")
    parser.add_argument("--workers", type=int, help="processes; default: one per CPU core, at most 8")
    options = parser.parse_args()
    began = time.perf_counter()
    try:
        root = make_mini(options.folder, options.seed, options.images, options.size, workers=options.workers)
        wrong = verify_mini(root)
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    if wrong:
        print(
            f"error: {len(wrong)} files differ from the manifest, {wrong[0]} first: delete the folder", file=sys.stderr
        )
        return 3
    print(f"{root}: complete, checksums agree, {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
