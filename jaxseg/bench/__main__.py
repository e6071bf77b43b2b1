"""`python -m jaxseg.bench`: the command `jaxseg bench` where tyro is not installed."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from jaxseg.bench.run import bench, measure_compilation
from jaxseg.bench.settings import GROUPS, make_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxseg.bench", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)} (default: all but scaling)"
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="names of published models")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="(800 1088)")
    parser.add_argument("--batch", type=int, metavar="N", help="images on one device (1)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--steps", type=int, metavar="N", help="most samples of a case (10)")
    parser.add_argument("--seconds", type=float, metavar="S", help="bound of a case's time (60)")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="COCO folder, for loader")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="JSON of all samples")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", help="picture of the times")
    parser.add_argument("--small", action="store_true", help="tiny sizes: show that it runs")
    given = vars(parser.parse_args(arguments))
    if given["size"] is not None:
        given["size"] = tuple(given["size"])
    if given["models"] is not None:
        given["models"] = tuple(given["models"])
    measure_compilation()
    try:
        return bench(make_settings(**given))
    except (ValueError, OSError) as error:
        print(f"jaxseg bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
