"The order of the rooms, and how little an import costs."
import ast
import re
import subprocess
import sys

import pytest

from pages import ROOMS, ROOT, all_modules

PACKAGE = ROOT/'fundus_nbdev'
MODULES = all_modules()
HEAVY = {'torch', 'torchvision', 'fastai', 'pandas', 'numpy', 'cv2', 'matplotlib', 'sklearn', 'scipy', 'PIL'}


def imported_names(file): # fundus_nbdev.photos.photo.open_photo, … as far as written
    "Everything that a module of the package imports from the package."
    here = ('fundus_nbdev.' + '.'.join(file.relative_to(PACKAGE).parts[:-1])).rstrip('.').split('.')
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = '.'.join([*here[:len(here) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            yield from (f'{base}.{alias.name}' for alias in node.names)


def imported_modules(file): # data.photo, …; 'cli' for what is in no room
    "The modules of the package that a module imports."
    for name in imported_names(file):
        parts = name.split('.')
        if parts[0] == 'fundus_nbdev' and len(parts) > 1: yield '.'.join(parts[1:3] if parts[1] in ROOMS else parts[1:2])


def place(module): # (room's number, page's number)
    "Where a module stands in reading order."
    room, _ = module.split('.')
    page = re.search(r'File to edit: \S*?/(\d+)\w*\.ipynb', MODULES[module].read_text(encoding='utf-8'))
    return ROOMS.index(room), int(page[1])


@pytest.mark.parametrize('module', MODULES)
def test_imports_only_from_above(module):
    for other in imported_modules(MODULES[module]):
        assert other in MODULES, f'{module} imports fundus_nbdev.{other}, which is no page of a room'
        assert place(other) < place(module), f'{module} imports {other}, which comes later'


def test_every_room_is_there():
    assert {m.split('.')[0] for m in MODULES} == set(ROOMS)


def loaded(code): # names of heavy packages
    "Which heavy packages are loaded after some code has run in a new Python."
    script = f'import sys\n{code}\nprint(*sorted({HEAVY!r} & set(sys.modules)))'
    ran = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True, cwd=ROOT)
    return ran.stdout.splitlines()[-1].split()


@pytest.mark.parametrize('code', [
    'import fundus_nbdev',
    'from fundus_nbdev.cli import main\nsys.argv = ["fundus", "--help"]\ntry: main()\nexcept SystemExit: pass',
    'from fundus_nbdev.cli import main\nsys.argv = ["fundus", "recipes"]\ntry: main()\nexcept SystemExit: pass',
    'from fundus_nbdev.cli import main\nsys.argv = ["fundus", "run", "--set", "training.epochz=1"]\ntry: main()\nexcept SystemExit: pass',
], ids=['import', 'help', 'recipes', 'misspelt'])
def test_answers_without_heavy_packages(code):
    assert loaded(code) == []
