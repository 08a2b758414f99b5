import subprocess
import sys
from pathlib import Path

import pytest

# A program: threads that all have arrays at once, with small ones in between; in the end only these are left.
KEPT = """
import threading
from pathlib import Path

import numpy as np

from indexer.jobs.memory_pool import share_memory_pool

{before}


def own_kb():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def work(number):
    kept[number] = [(np.ones(350_000), np.ones(16))[1] for _ in range(8)]
    arrays = [np.ones(350_000) for _ in range(8)]
    kept[number].append(np.ones(16))
    all_there.wait()
    del arrays
    all_done.wait()


kept, n = {{}}, 6
all_there, all_done = threading.Barrier(n), threading.Barrier(n)
large = [np.ones(4_000_000) for _ in range(2)]
del large
started = own_kb()
threads = [threading.Thread(target=work, args=(number,)) for number in range(n)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(own_kb() - started)
"""


def kept_kb(before: str) -> int:
    run = subprocess.run([sys.executable, "-c", KEPT.format(before=before)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what memory is a process's own")
def test_threads_that_share_a_pool_keep_a_fraction_of_what_they_do_not_use() -> None:
    assert kept_kb("share_memory_pool()") < kept_kb("") / 2
