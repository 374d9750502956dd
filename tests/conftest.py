"Slow tests run where FUNDUS_SLOW is set; where several processes test at once, each computes with one thread."
import os

if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1') # before torch is imported

import pytest # noqa: E402


def pytest_collection_modifyitems(items):
    if os.environ.get('FUNDUS_SLOW'): return
    for item in items:
        if 'slow' in item.keywords: item.add_marker(pytest.mark.skip(reason='slow: set FUNDUS_SLOW=1 to run it'))
