"""Runs what layers read through dieharder: numbers, by the 16 bits that each has, or masks, an element a bit.

    python benchmarks/dieharder.py numbers > benchmarks/dieharder_numbers.txt
    python benchmarks/dieharder.py masks > benchmarks/dieharder_masks.txt

Needs the program `dieharder`. Without -d TEST it runs every test (`-a`), which takes about an hour.
"""

import argparse
import itertools
import subprocess
import sys

import keras
import numpy as np
from keras import ops

from keras_dropouts import random


def numbers(key):
    drawn = ops.convert_to_numpy(random.uniform(key, (32, 2**16)))
    return np.floor(drawn * 2**16).astype("<u2").tobytes()


def masks(key):
    kept = ops.convert_to_numpy(random.keep_mask(key, (32, 2**18), 0.5))
    return np.packbits(kept, bitorder="little").tobytes()


STREAMS = {"numbers": numbers, "masks": masks}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stream", choices=STREAMS)
    parser.add_argument("-d", dest="tests", action="append", metavar="TEST", help="a dieharder test's number")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(f"{args.stream}, seed {args.seed}, Keras {keras.__version__} on {keras.backend.backend()}", flush=True)
    for options in [["-d", test] for test in args.tests] if args.tests else [["-a"]]:
        dieharder = subprocess.Popen(["dieharder", "-g", "200", *options], stdin=subprocess.PIPE, stdout=sys.stdout)
        try:
            # Sample after sample, call after call.
            for call in itertools.count():
                dieharder.stdin.write(STREAMS[args.stream](random.key(args.seed, call)))
        except BrokenPipeError:
            pass
        dieharder.wait()


if __name__ == "__main__":
    main()
