"""Runs the words that all random bits are made of through dieharder.

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

from keras_dropouts.random.backend import WORD
from keras_dropouts.random.bits import _pairs
from keras_dropouts.random.compilation import compiled
from keras_dropouts.random.keys import key_of

SAMPLES, BLOCKS = 32, 8192


def words_of(key, samples, blocks):
    return ops.stack(_pairs(key, samples, blocks), 1)


def stream(seed):
    """The words of a layer's calls, of 32 samples each, call after call: of a word its lower halves come first."""
    for call in itertools.count():
        key = key_of(ops.convert_to_tensor(np.array([seed, call, 0]), dtype=WORD))
        words = ops.convert_to_numpy(compiled(words_of)(key, SAMPLES, BLOCKS)).view("int16")
        yield words.reshape(SAMPLES, 2, BLOCKS, 2).swapaxes(2, 3).tobytes()


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
