"The command line as tests call it."
import json
import os
import re
import subprocess
import sys


def in_shell(place, *words): # what has run
    "Run `fundus` in a process and folder of its own."
    command = [sys.executable, '-c', 'from fundus_nbdev.cli import main; main()', *map(str, words)]
    env = os.environ | {'FUNDUS_CACHE': str(place/'cache')}
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)


SEVERAL = '''
import json, sys
from fundus_nbdev.cli import main
said = []
for words in json.loads(sys.argv[1]):
    sys.argv = ['fundus', *words]
    try: main()
    except SystemExit as end: said.append(str(end.code)) # a message: exit code 1
print(json.dumps(said))
'''


def several_in_shell(place, *commands): # what each ended with: a message, or the number of an exit code
    "Run several commands of `fundus`, each a list of words, in one process: it takes seconds to start."
    words = json.dumps([list(map(str, command)) for command in commands])
    env = os.environ | {'FUNDUS_CACHE': str(place/'cache')}
    ran = subprocess.run([sys.executable, '-c', SEVERAL, words], cwd=place, env=env, capture_output=True, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def folder_of(text, place): # run folder
    "The folder of the report that the last line names."
    found = re.fullmatch(r'Report: (.+report\.html)', text.strip().splitlines()[-1])
    assert found, text
    return (place/found[1]).parent
