"nbdev's commands under the names with an underscore, which people's fingers know. Hand-written: a page can't export what exports it."
from importlib import import_module
import sys


def _nbdev(
    module:str, # module of nbdev that holds the command
    command:str, # name of the command
): # runs nbdev's command on the words of the command line
    "Run a command of nbdev, or say what to install."
    try: commands = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split('.')[0] == 'nbdev':
            sys.exit(f"{command} needs nbdev, which is not installed here. Install the tools of a developer: pip install -e '.[dev]'")
        raise
    return getattr(commands, command)()


def nbdev_test(): return _nbdev('nbdev.test', 'nbdev_test')
def nbdev_export(): return _nbdev('nbdev.doclinks', 'nbdev_export')
def nbdev_clean(): return _nbdev('nbdev.clean', 'nbdev_clean')
def nbdev_prepare(): return _nbdev('nbdev.quarto', 'prepare')
