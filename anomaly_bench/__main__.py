"""`python -m anomaly_bench`."""

import sys

from anomaly_bench.cli import main

if __name__ == "__main__":  # worker processes import this file under another name
    sys.exit(main())
