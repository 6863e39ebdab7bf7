"""`python -m keras_dropouts`."""

import sys

from keras_dropouts.auditing import command as auditing
from keras_dropouts.comparison import command as comparison

if __name__ == "__main__":
    audit = sys.argv[1:2] == ["audit"]
    sys.exit(auditing.main(sys.argv[2:]) if audit else comparison.main())
