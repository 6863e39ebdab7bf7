"""Runs the random bits, in the order in which masks consume them, through dieharder.

    python benchmarks/dieharder.py [-d TEST ...] > benchmarks/dieharder.txt

Needs the program `dieharder`. Without -d it runs every test (`-a`), which takes about an hour.
"""

import argparse
import itertools
import subprocess
import sys

import keras
import numpy as np
from keras import ops

from keras_dropouts import random

SAMPLES, BLOCKS = 32, 8192


def stream(seed):
    """The 16-bit draws of a layer's calls: 32 samples of 32768 elements each, call after call."""
    for call in itertools.count():
        key = random.key_of(ops.convert_to_tensor(np.array([seed, call, 0]), dtype=random.WORD))
        draws = random.compiled(random._draws)(key, SAMPLES, BLOCKS)
        yield ops.convert_to_numpy(ops.cast(draws, "int16")).tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-d", dest="tests", action="append", help="a dieharder test's number")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    which = [["-d", test] for test in args.tests] if args.tests else [["-a"]]
    print(f"Threefry2x32, 13 rounds, seed {args.seed}, Keras {keras.__version__} on {keras.backend.backend()}")
    for options in which:
        dieharder = subprocess.Popen(["dieharder", "-g", "200", *options], stdin=subprocess.PIPE, stdout=sys.stdout)
        try:
            for chunk in stream(args.seed):
                dieharder.stdin.write(chunk)
        except BrokenPipeError:
            pass
        dieharder.wait()


if __name__ == "__main__":
    main()
