"""nbdev's commands under the names with an underscore, which people's fingers know.

Hand-written: a page can't export what exports it."""
from collections.abc import Callable
from importlib import import_module
import os
import subprocess
import sys

COMMANDS = { # function → its module
    'nbdev_test': 'nbdev.test', 'nbdev_export': 'nbdev.doclinks',
    'nbdev_clean': 'nbdev.clean', 'prepare': 'nbdev.quarto'}


def find(
    command:str, # a key of `COMMANDS`
)->Callable: # nbdev's function
    "Find a command of nbdev, or say what to install."
    try: return getattr(import_module(COMMANDS[command]), command)
    except ModuleNotFoundError as error:
        if error.name != 'nbdev': raise
        sys.exit("The nbdev_… commands need nbdev, which is not installed here. "
                 "Install the tools of a developer: pip install -e '.[dev]'")


def run(
    command:str, # a key of `COMMANDS`
): # ends with the command's exit code
    "Run a command of nbdev on the words of the command line, as a script of its own: nbdev reads them only there."
    env = {'OMP_NUM_THREADS': '1'} | os.environ # pages are tested side by side, one on each core
    sys.exit(subprocess.call([sys.executable, '-m', 'fundus_nbdev.dev', command, *sys.argv[1:]], env=env))


def nbdev_test(): run('nbdev_test')
def nbdev_export(): run('nbdev_export')
def nbdev_clean(): run('nbdev_clean')
def nbdev_prepare(): run('prepare')


if __name__ == '__main__':
    sys.argv = sys.argv[1:]
    command = find(sys.argv[0])
    sys.exit(command()) # called from the top of a script: nbdev takes the words of the command line
