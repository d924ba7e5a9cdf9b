import platform
import subprocess
import sys

import pytest

SCRIPT = """
import numpy, resource, sys
from encoder.training.memory import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.ones(12_000_000)
before = faults()
for _ in range(10): numpy.ones(12_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's malloc")
def test_memory_that_is_kept_is_not_zeroed_again_by_the_kernel():
    faults = {
        choice: int(subprocess.check_output([sys.executable, "-c", SCRIPT, choice]))
        for choice in ("keep", "give back")
    }

    assert faults["keep"] * 20 < faults["give back"]
