"""What must be so before a test imports anything."""

import gc
import os

# Models of tests are too small for threads to be worth more, and sums of other parts round otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Importing makes a million objects, none of them garbage. Looking for it took a sixth of the time; conftest.py goes on.
gc.disable()
