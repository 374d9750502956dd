"The command line as tests call it."
import os
import re
import subprocess
import sys


def in_shell(place, *words): # what has run
    "Run `fundus` in a process and folder of its own."
    command = [sys.executable, '-c', 'from fundus_nbdev.cli import main; main()', *map(str, words)]
    env = os.environ | {'FUNDUS_CACHE': str(place/'cache')}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)


def folder_of(text, place): # run folder
    "The folder of the report that the last line names."
    found = re.fullmatch(r'Report: (.+report\.html)', text.strip().splitlines()[-1])
    assert found, text
    return (place/found[1]).parent
