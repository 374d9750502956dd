"Slow tests run where FUNDUS_SLOW is set."
import os
import pytest


def pytest_collection_modifyitems(items):
    if os.environ.get('FUNDUS_SLOW'): return
    for item in items:
        if 'slow' in item.keywords: item.add_marker(pytest.mark.skip(reason='slow: set FUNDUS_SLOW=1 to run it'))
