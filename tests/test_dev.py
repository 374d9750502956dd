"nbdev's commands under their names with an underscore."
import json
import os
import subprocess
import sys

import pytest

PROJECT = '[project]\nname = "paper"\n[tool.nbdev]\nlib_path = "paper"\nnbs_path = "nbs"\ntst_flags = "notest slow"\n'


def cell(source): return {'cell_type': 'code', 'id': f'c{len(source)}', 'metadata': {}, 'execution_count': None, 'outputs': [], 'source': source}


@pytest.fixture
def project(tmp_path): # a project whose flagged cell fails
    (tmp_path/'pyproject.toml').write_text(PROJECT)
    (tmp_path/'nbs').mkdir()
    notebook = {'cells': [cell('1 + 1'), cell('#| slow\n1/0')], 'metadata': {'kernelspec': {'name': 'python3', 'language': 'python', 'display_name': 'python3'}}, 'nbformat': 4, 'nbformat_minor': 5}
    (tmp_path/'nbs'/'page.ipynb').write_text(json.dumps(notebook))
    return tmp_path


def nbdev(command, *words, folder, **env):
    start = f'import sys; sys.argv[0] = {command!r}; from fundus_nbdev.dev import {command}; {command}()'
    return subprocess.run([sys.executable, '-c', start, *words], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)


def test_flags_and_exit_code_arrive(project):
    plain, flagged = nbdev('nbdev_test', folder=project), nbdev('nbdev_test', '--flags', 'slow', folder=project)
    assert plain.returncode == 0 and 'Success' in plain.stdout
    assert flagged.returncode == 1 and 'page.ipynb' in flagged.stderr


@pytest.mark.parametrize('command', ['nbdev_test', 'nbdev_export', 'nbdev_clean', 'nbdev_prepare'])
def test_help(command, tmp_path):
    ran = nbdev(command, '--help', folder=tmp_path)
    assert ran.returncode == 0 and ran.stdout.startswith('usage:')


def test_says_what_to_install(tmp_path):
    (tmp_path/'nbdev.py').write_text("raise ModuleNotFoundError('No module named nbdev', name='nbdev')") # stands in for nothing
    ran = nbdev('nbdev_test', folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 1
    assert "pip install -e '.[dev]'" in ran.stderr and 'Traceback' not in ran.stderr
