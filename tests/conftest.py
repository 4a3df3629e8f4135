"""One thread in every test process: two cores are shared by whatever else runs."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
