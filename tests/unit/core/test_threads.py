"""Libraries of linear algebra on one thread."""

import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from poisonbench.core.threads import one_thread

LATER = """
import numpy
from threadpoolctl import threadpool_info
from poisonbench.core.threads import one_thread
with one_thread():
    before = len(threadpool_info())
import scipy.linalg
with one_thread():
    print(len(threadpool_info()) > before, max(library["num_threads"] for library in threadpool_info()))
print(max(library["num_threads"] for library in threadpool_info()))
"""


def test_a_block_runs_on_one_thread_and_the_number_from_before_comes_back():
    pytest.importorskip("scipy.linalg")  # it loads a BLAS library

    def widest() -> int:
        return max(library["num_threads"] for library in threadpool_info())

    with threadpool_limits(2):
        with one_thread():
            assert widest() == 1
        assert widest() == 2


def test_a_library_that_is_loaded_later_runs_on_one_thread_too():
    found = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}).stdout.split()
    assert found == ["True", "1", "2"]
