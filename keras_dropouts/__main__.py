"""`python -m keras_dropouts`."""

import sys

from keras_dropouts.comparison.command import main

if __name__ == "__main__":
    sys.exit(main())
