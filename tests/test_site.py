"""The site's pages, as nbdev hands them to Quarto: what readers complained of stays mended on every page.

FUNDUS_SITE may name a folder of processed pages, to test those instead of the repository's own."""
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from pages import NBS, ROOT, all_pages, changed, copy_project
from fundus_nbdev import _modidx

pytestmark = pytest.mark.slow
OWN = 'https://fundus-nbdev.github.io/fundus_nbdev/'
CODE = '⟨code⟩'
PICTURES = 'image/png', 'image/jpeg', 'image/svg+xml'


# the processed pages

def auto_id(heading): # as Pandoc makes it
    "The id of a heading that has none."
    text = re.sub(r'\{[^}]*\}\s*$', '', heading)
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', text)
    text = ''.join(c for c in text.lower() if c.isalnum() or c in '_-. \n')
    text = re.sub(r'\s+', '-', text.strip())
    return re.sub(r'^[^a-zA-Z]+', '', text) or 'section'


def without_code(text): # Markdown
    "Markdown without blocks of code."
    return re.sub(r'^(`{3,})[^`\n]*\n.*?^\1\s*$', CODE, text, flags=re.M | re.S)


@dataclass(frozen=True)
class Shown:
    "One processed page."
    file:Path
    root:Path

    @cached_property
    def name(self): return self.file.relative_to(self.root).as_posix()

    @cached_property
    def cells(self): return json.loads(self.file.read_text(encoding='utf-8'))['cells']

    @cached_property
    def outputs(self): return [output for cell in self.cells for output in cell.get('outputs', [])]

    @cached_property
    def prose(self): # as a reader gets it, with a mark in the place of each piece of code
        def marked(cell): return [without_code(''.join(cell['source']))] if cell['cell_type'] == 'markdown' else [CODE]
        def written(output): return without_code(''.join(output['data']['text/markdown'])) if 'text/markdown' in output.get('data', {}) else CODE
        return '\n\n'.join(text for cell in self.cells if cell['cell_type'] != 'raw' for text in [*marked(cell), *map(written, cell.get('outputs', []))])

    @cached_property
    def tables(self): # raw HTML of outputs
        return '\n'.join(''.join(output['data'].get(kind, '')) for output in self.outputs for kind in ('text/markdown', 'text/html') if 'data' in output)

    @cached_property
    def headings(self): # (level, text)
        return [(len(m[1]), m[2].strip()) for m in re.finditer(r'^(#+)([^\n]*)$', self.prose, re.M)]

    @cached_property
    def ids(self): # of headings, and of what has one of its own
        explicit = re.findall(r'\{#([^\s}]+)', self.prose)
        return explicit + [auto_id(text) for _, text in self.headings if '{#' not in text]

    @cached_property
    def figures(self): # (options, output)
        found = []
        for cell in self.cells:
            options = dict(re.findall(r'^#\| *([\w-]+): *(.+)$', ''.join(cell['source']), re.M))
            found += [(options, output) for output in cell.get('outputs', []) if set(PICTURES) & set(output.get('data', {}))]
        return found

    @cached_property
    def links(self): # to other places, with their anchors
        return [m[1] for m in re.finditer(r'\]\(([^()\s]+(?:\([^()]*\)[^()\s]*)?)\)', re.sub(r'`[^`\n]*`', '', self.prose))]


@pytest.fixture(scope='module')
def made(tmp_path_factory): # folder, and what was printed
    if 'FUNDUS_SITE' in os.environ: return Path(os.environ['FUNDUS_SITE']), ''
    place = tmp_path_factory.mktemp('site')
    copy_project(place)
    quarto = place/'bin'/'quarto' # nbdev only asks whether it is there
    quarto.parent.mkdir()
    quarto.write_text('#!/bin/sh\n')
    quarto.chmod(0o755)
    env = os.environ | {'PATH': f'{quarto.parent}{os.pathsep}{os.environ["PATH"]}', 'PYTHONPATH': str(place)}
    ran = subprocess.run([sys.executable, '-c', 'import nbdev.quarto; nbdev.quarto.nbdev_proc_nbs.__wrapped__()'], cwd=place, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    assert not changed(place) # the pages themselves
    return place/'_proc', ran.stdout + ran.stderr


@pytest.fixture(scope='module')
def site(made): # page → Shown
    root = made[0]
    return [Shown(file, root) for file in sorted(root.rglob('*.ipynb'))]


def wrong(site, find): # page → what is wrong there
    "The pages with a fault."
    found = {page.name: list(map(str, fault)) for page in site if (fault := find(page))}
    return '\n'.join(f'{name}: {" · ".join(fault)[:300]}' for name, fault in found.items())


# what is on each page

def test_nothing_is_warned_of(made):
    assert not re.search('warn|error', made[1], re.I), made[1]


def test_every_page_is_there(made, site):
    assert {page.name for page in site} == {page.name for page in all_pages()}
    for name in ('_quarto.yml', 'nbdev.yml', 'sidebar.yml', 'styles.css'): assert (made[0]/name).is_file(), name


def test_first_cells_hold_nothing_else(): # nbdev makes title and purpose of them, and drops the rest
    assert not wrong(all_pages(), lambda page: re.findall(r'^(?!# |> |- [\w-]+: |\s*$).+', page.sources('markdown')[0], re.M))


def test_no_link_in_a_link(site):
    assert not wrong(site, lambda page: re.findall(r'\[[^\[\]\n]*\[[^\[\]\n]*\]\([^()\n]*\)[^\[\]\n]*\]\(', page.prose))


def test_no_figure_is_hidden():
    def hidden(page): return [cell['id'] for cell in page.cells if cell['cell_type'] == 'code' and re.search(r'^#\| *hide\b', ''.join(cell['source']), re.M) and any(set(PICTURES) & set(o.get('data', {})) for o in cell['outputs'])]
    assert not wrong(all_pages(), hidden)


def test_no_metadata_of_a_machine(site):
    assert not wrong(site, lambda page: [cell['metadata']['execution'] for cell in page.cells if 'execution' in cell.get('metadata', {})])


def test_no_scripts(site): # Quarto fetches two from elsewhere for any output of this kind
    kinds = {'text/html', 'application/javascript', 'application/vnd.jupyter.widget-view+json'}
    assert not wrong(site, lambda page: [list(o['data']) for o in page.outputs if kinds & set(o.get('data', {}))] + re.findall('<script[^>]*>', page.tables))


def test_figures_have_captions_and_texts(site):
    def lacking(page): return [options for options, _ in page.figures if not (options.get('fig-cap') and options.get('fig-alt') and options['fig-cap'] != options['fig-alt'])]
    assert not wrong(site, lacking)
    assert not wrong(site, lambda page: re.findall(r'!\[\]\([^)]*\)', page.prose))
    said = [options[key].strip('"') for page in site for options, _ in page.figures for key in ('fig-cap', 'fig-alt')]
    assert len(said) == len(set(said)) and max(map(len, said)) <= 320


def test_figures_are_sharp(site): # two pixels for one
    def blurred(page): return [list(o['data']) for _, o in page.figures for kind in ('image/png', 'image/jpeg') if kind in o['data'] and 'width' not in o.get('metadata', {}).get(kind, {})]
    assert not wrong(site, blurred)


def test_headings_say_something(site):
    def empty(page):
        pairs = zip(page.headings, page.headings[1:])
        texts = re.split(r'^#+[^\n]*$', page.prose, flags=re.M)[2:]
        without = [text for ((level, text), (after, following)), between in zip(pairs, texts) if after <= level and not between.strip() and '.entry' not in text + following]
        return [text for _, text in page.headings if not text.strip('# ')] + without
    assert not wrong(site, empty)


def test_ids_are_there_once(site):
    assert not wrong(site, lambda page: sorted({each for each in page.ids if page.ids.count(each) > 1}))


def test_links_and_pictures_lead_somewhere(made, site):
    known = {page.name: set(page.ids) for page in site}
    def dead(page):
        found = []
        for link in page.links:
            if re.match(r'(https?|mailto|doi|data):', link): continue
            path, _, anchor = link.partition('#')
            target = os.path.normpath(f'{Path(page.name).parent}/{path}') if path else page.name
            if not (made[0]/target).is_file() or (anchor and anchor not in known.get(target, ())): found.append(link)
        return found
    assert not wrong(site, dead)
    assert not wrong(site, lambda page: [link for link in page.links if link.startswith(OWN)]), 'the site links to itself by its address'


def test_references_and_callouts_are_whole(site):
    labels = {options['label'] for page in site for options, _ in page.figures if 'label' in options}
    assert not wrong(site, lambda page: [each for each in re.findall(r'(?<![\w`])@((?:fig|tbl|sec|eq)-[\w-]+)', page.prose) if each not in labels])
    assert not wrong(site, lambda page: [0] * (len(re.findall(r'^:::+', page.prose, re.M)) % 2))


def test_pages_are_light(site):
    assert not wrong(site, lambda page: [size] if (size := page.file.stat().st_size) > 2_000_000 else [])


def test_tables_hold_nothing_of_pandas(site):
    assert not wrong(site, lambda page: re.findall(r'<td>NaN</td>|<style|border="1"', page.tables))


# the reference

def test_every_public_name_has_an_entry(site):
    known = {page.name: set(page.ids) for page in site}
    modules = {page.module: page.name for page in all_pages() if page.module}
    home = {name: module for module in reversed(modules) for name in _public(module)} # some are passed on by a later page
    assert not [name for name, module in home.items() if name not in known[modules[module]]]


def _public(module): # names
    "What a module exports."
    text = (ROOT/'fundus_nbdev'/f'{module.replace(".", "/")}.py').read_text(encoding='utf-8')
    return re.findall(r"'(\w+)'", re.search(r'__all__ = \[(.*?)\]', text, re.S)[1])


def test_entries_are_headings_that_the_search_knows(site): # Quarto's search has an entry for each heading of level 2
    entries = [text for page in site for level, text in page.headings if '.entry' in text and level == 2]
    documented = [name for names in _modidx.d['syms'].values() for name in names if name.split('.')[-1][0] != '_']
    assert len(entries) > 900 and len(documented) > 900


def test_signatures_are_as_written(site):
    assert not wrong(site, lambda page: re.findall(r'__main__\.\w+|torch\.nn\.modules\.module\.Module', page.tables + '\n'.join(''.join(cell['source']) for cell in page.cells if cell['cell_type'] == 'markdown')))


def test_docstrings_are_markdown(site):
    def strange(page):
        entries = [''.join(cell['source']) for cell in page.cells if cell['cell_type'] == 'markdown' and '.entry}' in ''.join(cell['source'])]
        prose = re.sub(r'`[^`\n]*`', '', without_code('\n\n'.join(entries)))
        return re.findall(r'<https?:[^>]*[.,;]>|(?<!\\)<(?!https?:)\w[^>]*>', prose)
    assert not wrong(site, strange)


def test_fields_keep_their_comments(site):
    [bundle] = [page for page in site if page.name == '05_models/09_bundle.ipynb']
    text = '\n'.join(''.join(cell['source']) for cell in bundle.cells if cell['cell_type'] == 'markdown')
    assert re.search(r'^class Bundle:\n    model:nn\.Module # \w', text, re.M), text


def test_pages_that_teach_show_their_source(site):
    taught = {'05_models/01_layers.ipynb': 'class', '05_models/03_resnet.ipynb': 'class BasicBlock', '04_data/15_datablock.ipynb': 'def table_block', '07_training/03_onecycle.ipynb': 'def ',
              '07_training/04_mix.ipynb': 'class MixUpCB', '07_training/01_losses.ipynb': 'class ', '08_explain/08_gradcam.ipynb': 'def grad_cam', '08_explain/06_cam.ipynb': 'def ', '02_photos/03_field_of_view.ipynb': 'def fov_mask'}
    shown = {page.name: '\n'.join(''.join(c['source']) for c in page.cells if c['cell_type'] == 'code' and 'code-fold' not in ''.join(c['source'])) for page in site}
    assert not {name: part for name, part in taught.items() if not re.search(rf'^{part}', shown[name], re.M)}


# the site as a whole

def settings(name): return yaml.safe_load((ROOT/name).read_text(encoding='utf-8')) # of a YAML file


def colours(file): # name → #rrggbb
    "The colours that a theme sets."
    return dict(re.findall(r'^\$([\w-]+): (#[0-9a-f]{6});', (NBS/file).read_text(encoding='utf-8'), re.M))


def luminance(colour): # 0 to 1, as WCAG 2 defines it
    "How bright a colour is."
    channels = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= .04045 else ((c + .055) / 1.055)**2.4 for c in channels]
    return sum(weight * c for weight, c in zip((.2126, .7152, .0722), linear))


def contrast(one, other): # 1 to 21
    "How well one colour is read on another."
    dark, light = sorted(map(luminance, (one, other)))
    return (light + .05) / (dark + .05)


@pytest.mark.parametrize('theme', ['theme.scss', 'theme-dark.scss'])
def test_words_can_be_read(theme):
    of = colours(theme)
    pairs = [(of[name], of[ground]) for name in ('body-color', 'link-color', 'text-muted') for ground in ('body-bg', 'code-block-bg')]
    pairs += [(of['code-color'], of['code-bg']), (of['link-color'], of['code-bg']), ('#ffffff', of['primary'])]
    assert not [pair for pair in pairs if contrast(*pair) < 4.5]


def test_nothing_is_fetched_from_elsewhere():
    for name in ('theme.scss', 'theme-dark.scss', 'styles.css'):
        text = (NBS/name).read_text(encoding='utf-8')
        assert not re.search(r'@import|url\(|https?:', text), name
        assert name.endswith('.css') or '$web-font-path: false;' in text # the themes' own fonts
    html = settings('_quarto.yml')['format']['html']
    assert html['html-math-method'] == 'mathml' and not {'include-in-header', 'analytics'} & set(html)
    assert [themes[1] for themes in html['theme'].values()] == ['theme.scss', 'theme-dark.scss']


def test_the_site_has_its_parts():
    website = settings('_quarto.yml')['website']
    assert (NBS/website['favicon']).is_file() and (NBS/website['open-graph']['image']).is_file() and (NBS/'404.qmd').is_file()
    assert {'edit', 'issue'} <= set(website['repo-actions']) and website['repo-subdir'] == 'nbs' and website['page-footer']
    assert settings('nbs/nbdev.yml')['website']['repo-url'] == 'https://github.com/fundus-nbdev/fundus_nbdev'


def test_the_sidebar_is_in_order():
    first, second, third, *sections = settings('nbs/sidebar.yml')['website']['sidebar']['contents']
    assert [first, second, third] == ['index.ipynb', 'fundus_photography.ipynb', 'in_a_fastai_notebook.ipynb']
    rooms = {path.name for path in NBS.iterdir() if re.match(r'\d\d_', path.name)}
    assert [each['section'] for each in sections[-2:]] == ['experiments/index.ipynb', 'Reference']
    assert {each['section'].partition('/')[0] for each in sections[:-2]} == rooms


def test_experiments_begin_with_the_result():
    def late(page):
        if not page.name.startswith('experiments/') or page.name.endswith('index.ipynb'): return []
        shown = [cell for cell in page.cells[1:] if not (cell['cell_type'] == 'code' and re.match(r'#\| *(hide|default_exp)', ''.join(cell['source'])))]
        return [] if any(set(PICTURES) & set(o.get('data', {})) for cell in shown[:3] for o in cell.get('outputs', [])) else ['no figure among the first three cells']
    assert not wrong(all_pages(), late)


def test_code_of_experiments_is_folded():
    assert settings('nbs/experiments/_metadata.yml')['format']['html']['code-fold'] is True
