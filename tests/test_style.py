"How the code reads: what ruff can't say. Each rule was broken somewhere before it was written down here."
from collections import Counter, defaultdict
from statistics import median, quantiles
import ast
import inspect

import pytest

from fundus_nbdev.core import errors
from pages import ROOT, all_modules, all_pages

PACKAGE = ROOT/'fundus_nbdev'
FILES = sorted(file for file in PACKAGE.rglob('*.py') if file.name != '_modidx.py')
MODULES = list(all_modules().values())
TREES = {file: ast.parse(file.read_text(encoding='utf-8')) for file in FILES}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LONG_PAGES = { # pages with more than 60 cells, and why
}
each_file = pytest.mark.parametrize('file', FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])


def defined(tree): # names
    "What a module defines at its top level."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def used(tree): # names, each as often as it is used
    "What a module reads: names, attributes, and words in annotations."
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load): yield node.id
        if isinstance(node, ast.Attribute): yield node.attr


@each_file
def test_lines_are_short(file):
    written = ('# %% ', 'Docs: ', '__all__ = ') # by nbdev
    lines = enumerate(file.read_text(encoding='utf-8').splitlines(), 1)
    assert not [number for number, line in lines if len(line) > 120 and not line.startswith(written)]


@each_file
def test_no_riddles(file):
    found = []
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Nonlocal): found.append((node.lineno, 'nonlocal: a small class says it better'))
        if isinstance(node, ast.IfExp) and any(isinstance(part, ast.IfExp) for part in (node.body, node.orelse)):
            found.append((node.lineno, 'a ternary in a ternary'))
        if isinstance(node, COMPREHENSIONS) and sum(isinstance(part, COMPREHENSIONS) for part in ast.walk(node)) > 1:
            found.append((node.lineno, 'a comprehension in a comprehension'))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and times_a_condition(node):
            found.append((node.lineno, 'text or a list times a condition: write if'))
    assert not found


def times_a_condition(product): # bool
    "Whether a text or list is multiplied by what is true or false."
    def is_text(node): return isinstance(node, (ast.JoinedStr, ast.List)) or isinstance(getattr(node, 'value', None), str)
    def is_condition(node):
        call = isinstance(node, ast.Call) and getattr(node.func, 'id', '') in ('bool', 'isinstance', 'any', 'all')
        return call or isinstance(node, (ast.Compare, ast.BoolOp)) or isinstance(getattr(node, 'op', None), ast.Not)
    sides = product.left, product.right
    return any(is_text(side) for side in sides) and any(is_condition(side) for side in sides)


def test_functions_are_short():
    lengths = [node.end_lineno - node.lineno + 1 for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert median(lengths) <= 8 and quantiles(lengths, n=10)[-1] <= 25


def test_pages_are_short():
    long = {page.name for page in all_pages() if page.exports() and len(page.cells) > 60}
    assert long == set(LONG_PAGES), 'cut a page in two, or write down here why it must be long'


def test_a_public_name_stands_in_one_module():
    places = defaultdict(list)
    for file in MODULES:
        for name in set(defined(TREES[file])): places[name].append(str(file.relative_to(PACKAGE)))
    assert not {name: found for name, found in places.items() if len(found) > 1 and not name.startswith('_')}


def test_private_functions_are_called():
    idle = {}
    for file in MODULES:
        called = Counter(used(TREES[file]))
        private = {node.name for node in TREES[file].body if isinstance(node, ast.FunctionDef) and node.name.startswith('_')}
        if unused := [name for name in private if not called[name]]: idle[str(file.relative_to(PACKAGE))] = unused
    assert not idle


def test_public_functions_are_called():
    "In another function, or on a page. What a decorator registers is called by its name."
    called = Counter(name for tree in TREES.values() for name in used(tree))
    shown = Counter()
    for page in all_pages():
        for source in page.sources('code'):
            if '#| export' in source: continue
            try: shown.update(used(ast.parse(source)))
            except SyntaxError: pass # a magic
    functions = [node for file in MODULES for node in TREES[file].body if isinstance(node, ast.FunctionDef)]
    names = {node.name for node in functions if not node.name.startswith('_') and not node.decorator_list} # a decorator registers it
    assert not [name for name in sorted(names) if not called[name] and not shown[name]]


def test_errors_stand_on_one_page():
    found = {node.name for file in FILES for node in ast.walk(TREES[file]) if isinstance(node, ast.ClassDef) and node.name.endswith('Error')}
    here = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert found == here and len(here) <= 14
