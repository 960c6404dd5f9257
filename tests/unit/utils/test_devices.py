"""Arrays on a processor use the memory of those before them."""

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from arrag.utils.device import default_device

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(1 << 24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert default_device() == "cpu"
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_freed_memory_is_used_again(root):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=root, capture_output=True, text=True, check=True
    )
    pages = 10 * (1 << 26) // resource.getpagesize()
    assert int(done.stdout) < pages / 100  # without: all of them
