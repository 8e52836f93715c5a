"""`python -m anomaly_bench`."""

import sys

from anomaly_bench.cli import main

sys.exit(main())
