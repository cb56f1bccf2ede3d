"""Memory that a large tensor gave back is there for the next one, counted by the system's own page faults."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
{first}
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(25_000_000, np.float32)  # 100 MB: 24,000 pages
before = faults()
np.ones(25_000_000, np.float32)
print(faults() - before)
"""


def faults_of_a_second_tensor(first, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    code = FAULTS.format(first=first)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator alone is told")
def test_a_second_large_tensor_asks_the_system_for_nothing():
    kept = faults_of_a_second_tensor("import tlg_lib")
    plain = faults_of_a_second_tensor("")
    theirs = faults_of_a_second_tensor("import tlg_lib", MALLOC_TRIM_THRESHOLD_="131072")
    assert kept < 100
    assert min(plain, theirs) > 10 * max(kept, 4), "without the setting, or with the user's own, pages come anew"
