"The rules of the repository: how a page looks, what may lie in git, what must agree with what."
from base64 import b64decode
import ast
import re
import subprocess
import sys

import pytest
import yaml

from pages import FOLDERS, NBS, ROOMS, ROOT, all_modules, all_pages, changed, copy_project, landing_page, readme

PAGES = all_pages()
EXPORTING = [p for p in PAGES if p.exports()]
MODULES = all_modules()
MACHINE_PATH = re.compile(r'(?<![\w.:/])/(work|root|home|tmp|Users|mnt|opt|private|var/folders)/\S+')
COMMANDS = ["pip install -e . && fundus run", "pip install -e '.[dev]' && nbdev_test && pytest"]
each_page = pytest.mark.parametrize('page', PAGES, ids=[p.name for p in PAGES])
each_module = pytest.mark.parametrize('module', MODULES.values(), ids=MODULES)


def is_test(source): return bool(re.search(r'\bassert\b|\btest_\w+\(|expect_fail|ExceptionExpected', source))


def texts(output): # of one output; pictures left out
    "What a reader sees of an output, as text."
    yield ''.join(output.get('text', []))
    for mime, data in output.get('data', {}).items():
        if not mime.startswith('image/') or mime == 'image/svg+xml': yield re.sub(r'base64,[\w+/=]+', '', ''.join(data))


def picture_sizes(output): # bytes
    "How large the pictures of an output are."
    for mime, data in output.get('data', {}).items():
        text = ''.join(data)
        if mime == 'image/svg+xml': yield len(text)
        elif mime.startswith('image/'): yield len(b64decode(text))
        else: yield from (len(b64decode(found)) for found in re.findall(r'base64,([\w+/=]+)', text))


# pages

@each_page
def test_title_and_purpose(page):
    assert re.match(r'# \S.*\n+> \S', page.sources('markdown')[0]), 'a page starts with "# title" and "> purpose in one line"'


@each_page
def test_page_and_module_have_one_name(page):
    folder, _, file = page.name.rpartition('/')
    if page.module or (folder[:1].isdigit() and file != 'index.ipynb'):
        assert page.module == f'{folder.partition("_")[2]}.{file.removesuffix(".ipynb").partition("_")[2]}'
        assert folder == f'{ROOMS.index(folder.partition("_")[2]) + 1:02}_{folder.partition("_")[2]}'


@each_page
def test_no_page_exports_the_project(page):
    assert not [s for s in page.sources('code') if re.search(r'nbdev_export\(|nbdev\.export', s)]


@pytest.mark.parametrize('page', EXPORTING, ids=[p.name for p in EXPORTING])
def test_exporting_pages_assert(page):
    assert [s for s in page.sources('code') if is_test(s) and not re.search(r'^#\|\s*export[si]?\b', s, re.M)]


@each_page
def test_no_errors_and_no_paths_of_a_machine(page):
    assert not [o['evalue'] for o in page.outputs() if o['output_type'] == 'error']
    found = [m[0] for t in [*page.sources('code'), *page.sources('markdown'), *(t for o in page.outputs() for t in texts(o))] for m in MACHINE_PATH.finditer(t)]
    assert not found


@each_page
def test_pictures_are_small(page):
    sizes = [n for o in page.outputs() for n in picture_sizes(o)]
    assert max(sizes, default=0) < 60_000 and sum(sizes) < 200_000 # two pixels for one


def draws(source): # a cell that leaves a figure open, which the notebook then shows
    "Whether a cell draws by itself, not in a function that it only defines."
    return bool(re.search(r'^(?!    ).*\bplt\.(subplots|figure)\(', source, re.MULTILINE)) and 'plt.close' not in source and not re.search(r'^#\|\s*(export|data|slow)', source, re.MULTILINE)


@each_page
def test_figures_are_there(page):
    missing = [cell['source'] for cell in page.cells if cell['cell_type'] == 'code' and draws(''.join(cell['source'])) and not any(list(picture_sizes(output)) for output in cell['outputs'])]
    assert not missing, 'run the page again in a notebook, where figures are shown'


@each_page
def test_links_lead_somewhere(page):
    links = [m[1] for s in page.sources('markdown') for m in re.finditer(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', s) if ':' not in m[1]]
    assert not [link for link in links if not (page.file.parent/link).exists()]


def test_every_room_has_a_landing_page():
    assert {page.name for page in PAGES if page.name.endswith('/index.ipynb')} == {f'{folder}/index.ipynb' for folder in FOLDERS}


@pytest.mark.parametrize('folder', FOLDERS)
def test_landing_pages_list_their_pages(folder):
    assert (NBS/folder/'index.ipynb').read_text(encoding='utf-8') == landing_page(folder), 'a page has another title, purpose or name: write the tables anew with `python tests/pages.py`'


def test_sidebar_lists_every_page_once():
    def listed(contents): # the heading of a section may be a page, too
        for item in contents:
            if isinstance(item, str): yield item
            else: yield from listed([item['section'], *item['contents']])
    contents = yaml.safe_load((NBS/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    assert sorted(name for name in listed(contents) if name.endswith('.ipynb')) == [p.name for p in PAGES]


# package

@each_module
def test_no_star_imports_and_no_bare_asserts(module):
    nodes = list(ast.walk(ast.parse(module.read_text(encoding='utf-8'))))
    assert not [n.lineno for n in nodes if isinstance(n, ast.ImportFrom) and n.names[0].name == '*']
    assert not [n.lineno for n in nodes if isinstance(n, ast.Assert)]


NAMED = re.compile(r"None|'?(?!Tensor|DataFrame|Series|Path|Callable|Any)[A-Z]\w+'?(\|None)?") # results that say what they are


def commented(argument, arguments, lines): # bool
    "Whether a parameter has a line of its own, with a comment behind it or on the line above."
    number, line = argument.lineno, lines[argument.lineno - 1]
    if line.startswith('def ') or [each.lineno for each in arguments].count(number) > 1: return False
    return '#' in lines[argument.end_lineno - 1][argument.end_col_offset:] or lines[number - 2].strip().startswith('#')


def undocumented(function, lines): # what is missing, in words
    "Docstring, and the type and comment of every parameter and of the result. A decorator that registers knows the parameters."
    if not ast.get_docstring(function): yield 'docstring'
    given = function.args
    arguments = [a for a in [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg] if a]
    yield from (f'type of {a.arg}' for a in arguments if a.annotation is None and a is not given.kwarg)
    if not any(isinstance(each, ast.Call) for each in function.decorator_list): yield from (f'comment on {a.arg}' for a in arguments if not commented(a, arguments, lines))
    if function.returns is None: yield 'type of the result'
    elif not NAMED.fullmatch(ast.unparse(function.returns).replace(' ', '')) and '#' not in lines[function.body[0].lineno - 2]: yield 'comment on the result'


UNDOCUMENTED = { # what is missing → a function where it is
    'docstring': 'def f(\n    a:int, # x\n)->int: # y\n    return a',
    'type of a': 'def f(\n    a, # x\n)->int: # y\n    "Do."',
    'comment on a': 'def f(a:int)->int: # y\n    "Do."', # that comment is the result's
    'comment on b': 'def f(\n    a:int, # x\n    *b:int,\n)->int: # y\n    "Do."',
    'type of the result': 'def f(\n    a:int, # x\n): # y\n    "Do."',
    'comment on the result': 'def f(\n    a:int, # x\n)->bool:\n    "Do."',
}


@pytest.mark.parametrize('missing, source', UNDOCUMENTED.items(), ids=UNDOCUMENTED)
def test_what_is_not_documented_is_seen(missing, source):
    assert list(undocumented(ast.parse(source).body[0], source.splitlines())) == [missing]



@each_module
def test_public_functions_are_documented(module):
    text = module.read_text(encoding='utf-8')
    functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and not n.name.startswith('_')]
    missing = {f.name: found for f in functions if (found := list(undocumented(f, text.splitlines())))}
    assert not missing


# repository

def tracked(): # files that are in git or would be
    "What `git add .` would hold."
    if not (ROOT/'.git').exists(): pytest.skip('no git checkout')
    ran = subprocess.run(['git', 'ls-files', '-coz', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True)
    return [f for name in ran.stdout.split('\0') if name and (f := ROOT/name).is_file()]


def test_files_are_small():
    assert not [str(f) for f in tracked() if f.stat().st_size > 3_000_000 and f.suffix != '.safetensors']


def test_no_paths_of_a_machine_in_text():
    found = {}
    for file in tracked():
        if file.suffix in {'.py', '.md', '.ini', '.toml', '.yml', '.txt', '.json', '.css', '.jinja'} and file.parent.name != 'tests':
            if hits := [m[0] for m in MACHINE_PATH.finditer(file.read_text(encoding='utf-8'))]: found[str(file)] = hits
    assert not found


def test_readme_is_the_front_page():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert text == readme(), 'README.md and nbs/index.ipynb differ: write README.md anew with `python tests/pages.py`'
    first = re.search(r'^```\w*\n(.*?)^```', text, re.M | re.S)[1]
    assert first.splitlines() == COMMANDS
    assert not [m[1] for m in re.finditer(r'\]\(([^)#:]+)\)', text) if not (ROOT/m[1]).exists()]


@pytest.mark.slow
def test_clean_and_export_change_nothing(tmp_path):
    copy_project(tmp_path)
    for command in ('nbdev_clean', 'nbdev_export'): subprocess.run([sys.executable, '-m', 'fundus_nbdev.dev', command], cwd=tmp_path, check=True)
    assert not changed(tmp_path), 'run nbdev_clean and nbdev_export'
