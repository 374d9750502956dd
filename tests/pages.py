"""The pages of nbs/ as the tests read them.

`python tests/pages.py` writes README.md from the front page, and the table of each landing page from the pages of its folder."""
from dataclasses import dataclass
from pathlib import Path
import filecmp
import json
import re
import shutil

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
ROOMS = ['core', 'photos', 'synth', 'data', 'models', 'evaluation', 'training', 'explain', 'audit', 'errors', 'use'] # each may import from those before it
FOLDERS = [*(f'{number:02}_{room}' for number, room in enumerate(ROOMS, 1)), 'experiments'] # of nbs/; each has a landing page, index.ipynb


def all_modules()->dict[str, Path]: # 'data.split' → its file
    "The modules that pages export."
    files = [file for room in ROOMS for file in sorted((ROOT/'fundus_nbdev'/room).glob('*.py')) if file.stem != '__init__']
    return {f'{file.parent.name}.{file.stem}': file for file in files}


@dataclass(frozen=True)
class Page:
    "One notebook."
    file:Path # .ipynb
    cells:list[dict] # as in the file

    @property
    def name(self)->str: return self.file.relative_to(NBS).as_posix() # 02_photos/01_photo.ipynb

    @property
    def module(self)->str|None: # data.photo, as the page says itself
        found = [m[1] for s in self.sources('code') if (m := re.match(r'#\|\s*default_exp\s+(\S+)', s))]
        return found[0] if found else None

    def sources(self, kind:str)->list[str]: return [''.join(c['source']) for c in self.cells if c['cell_type'] == kind]

    def exports(self)->bool: return any(re.search(r'^#\|\s*export[si]?\b', s, re.M) for s in self.sources('code'))

    def outputs(self)->list[dict]: return [o for c in self.cells for o in c.get('outputs', [])]


def read_page(file:Path)->Page: return Page(file, json.loads(file.read_text(encoding='utf-8'))['cells'])


def all_pages()->list[Page]: # sorted by name
    files = [f for f in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in f.relative_to(NBS).parts)]
    return [read_page(f) for f in sorted(files)]


def copy_project(place:Path)->None: # a folder that is there
    "Copy what nbdev reads and writes."
    ignore = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'runs')
    for name in ('nbs', 'fundus_nbdev'): shutil.copytree(ROOT/name, place/name, symlinks=True, ignore=ignore)
    for name in ('pyproject.toml', 'settings.ini', '_quarto.yml', 'README.md'): shutil.copy(ROOT/name, place)


def changed(copy:Path)->list[str]: # relative paths
    "Files of pages and package that differ from their copy."
    return [f'{name}/{f}' for name in ('nbs', 'fundus_nbdev') for f in differences(ROOT/name, copy/name)]


def differences(a:Path, b:Path)->list[str]: # relative paths
    "Files that differ between two folders."
    skip = {'__pycache__', '.ipynb_checkpoints', 'runs'}
    files = {f.relative_to(top) for top in (a, b) for f in top.rglob('*') if f.is_file() and not skip & set(f.parts)}
    return sorted(str(f) for f in files if not ((a/f).is_file() and (b/f).is_file() and filecmp.cmp(a/f, b/f, shallow=False)))


def readme()->str: # Markdown
    "The front page's text; links to pages get the folder in front, since README.md lies one folder higher."
    text = '\n\n'.join(source.strip() for source in read_page(NBS/'index.ipynb').sources('markdown')) + '\n'
    return re.sub(r'\]\((?!https?:|#)(?:\.\./)?([^)]+)\)', lambda m: f']({"" if m[0].startswith("](../") else "nbs/"}{m[1]})', text)


def room_table(folder:str)->str: # Markdown
    "The pages of a folder of nbs/ in order, each with its title and purpose."
    pages = [page for page in all_pages() if page.file.parent == NBS/folder and page.file.stem != 'index']
    heads = [re.match(r'# (.+)\n+> (.+)', page.sources('markdown')[0]) for page in pages]
    rows = [f'| [{head[1]}]({page.file.name}) | {head[2]} |' for page, head in zip(pages, heads)]
    return '\n'.join(['| page | what it is for |', '| --- | --- |', *rows])


def landing_page(folder:str)->str: # the notebook, as nbdev_clean leaves it
    "The landing page of a folder of nbs/, its table written anew."
    notebook = json.loads((NBS/folder/'index.ipynb').read_text(encoding='utf-8'))
    [cell] = [cell for cell in notebook['cells'] if ''.join(cell['source']).startswith('## Pages')]
    cell['source'] = f'## Pages\n\n{room_table(folder)}'.splitlines(keepends=True)
    return json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n'


if __name__ == '__main__':
    (ROOT/'README.md').write_text(readme(), encoding='utf-8')
    for folder in FOLDERS: (NBS/folder/'index.ipynb').write_text(landing_page(folder), encoding='utf-8')
