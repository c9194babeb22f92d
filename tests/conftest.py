"""What all tests share."""

import os

# Two test workers on two cores: a thread pool for each operation would only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
