"""The pages of nbs/ as the documentation site shows them; nbdev calls `SitePage` (`doc_procs` in pyproject.toml).

Hand-written: a page can't export what makes it. Nothing is run; entries are read from the cells that export."""
from collections.abc import Iterator
from functools import cache
from os.path import relpath
from pathlib import Path
from typing import Any
import ast
import re

from fastcore.nbio import mk_cell

OPTIONS = ('code-fold', 'code-summary', 'echo', 'fig-alt', 'fig-cap', 'label', 'output') # those of Quarto that stay
UNSEEN = {'default_exp', 'exporti', 'hide'} # cells for the machine
LONG = 12 # lines: a longer constant is folded

Named = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


# entries of the reference, from source

def lines_of(
    node:ast.stmt, # statement
    lines:list[str], # of its cell
    end:int|None=None, # last line, from 1; None: of the statement
)->str: # with decorators, and with the comments above it and at its ends of lines
    "Return a statement as it was written."
    first = min([node.lineno, *(each.lineno for each in getattr(node, 'decorator_list', []))]) - 1
    while first and re.match(r'\s+#', lines[first - 1]): first -= 1
    return '\n'.join(lines[first:end or node.end_lineno])


def head(
    node:ast.FunctionDef|ast.ClassDef, # definition
    lines:list[str], # of its cell
)->str: # up to the colon, with the comments of the parameters
    "Return the head of a definition."
    return lines_of(node, lines, max(node.lineno, node.body[0].lineno - 1))


def signature(
    node:Named, # definition, or a constant
    lines:list[str], # of its cell
)->str: # Python
    "Return what a caller has to know: a function's head; a class's fields and how it is made; a constant."
    if isinstance(node, ast.FunctionDef): return head(node, lines)
    if not isinstance(node, ast.ClassDef): return lines_of(node, lines)
    made = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == '__init__']
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign | ast.Assign)]
    parts = [head(node, lines), *(lines_of(field, lines) for field in fields), *(head(part, lines) for part in made)]
    return '\n'.join(parts)


def names(
    node:ast.stmt, # statement at the top of a cell
)->list[str]: # public ones
    "Return the names that a statement gives to the users of a module."
    if isinstance(node, ast.FunctionDef | ast.ClassDef): found = [node.name]
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        parts = [each for target in getattr(node, 'targets', [node]) for each in ast.walk(target)]
        found = [each.id for each in parts if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
    else: found = []
    return [name for name in found if not name.startswith('_')]


def methods(
    node:ast.ClassDef, # any
)->Iterator[str]: # Markdown: items of a list
    "Describe the methods of a class in a line each."
    for part in node.body:
        if not isinstance(part, ast.FunctionDef) or part.name.startswith('_'): continue
        how = [ast.unparse(each) for each in part.decorator_list]
        if any(each.endswith('.setter') for each in how): continue
        is_value = any('property' in each for each in how)
        called = part.name if is_value else f'{part.name}({", ".join(each.arg for each in part.args.args[1:])})'
        about = (ast.get_docstring(part) or '').partition('\n')[0]
        if about: yield f'- [`{called}`]{{#{node.name}.{part.name}}} {about}'


def fenced(
    code:str, # Python
    fold:bool, # hidden until a reader asks for it?
)->str: # Markdown
    "Put code between fences."
    kind = '{.python .cell-code code-fold="true" code-summary="Source"}' if fold else 'python'
    return f'```{kind}\n{code}\n```'


def as_markdown(
    words:str, # of docstrings
)->str: # Markdown
    "Make links of bare addresses, and no tags of what stands in angle brackets."
    parts = re.split(r'(`[^`]*`)', words) # code stays as it is
    parts[::2] = [part.replace('<', '\\<') for part in parts[::2]]
    return re.sub(r'(?<!\]\()https?://[^\s,)]*[^\s,).;]', r'<\g<0>>', ''.join(parts))


def fold(
    defined:list[str], # names
)->list[str]: # options of Quarto
    "Hide the source of a cell until a reader asks for it; say what it defines where no entry does."
    private = [name for name in defined if name.startswith('_')]
    summary = ': '.join(['Source', *([', '.join(private)] if private else [])])
    return ['#| code-fold: true', f'#| code-summary: "{summary}"']


def entry(
    name:str, # public
    node:Named, # what has that name
    lines:list[str], # of its cell
    with_code:bool=True, # False: the source follows anyway
)->str: # Markdown
    "Write the entry of a name; its heading is of the second level, which Quarto's search knows."
    code, about = signature(node, lines), []
    if isinstance(node, ast.FunctionDef | ast.ClassDef): about.append(ast.get_docstring(node) or '')
    if isinstance(node, ast.ClassDef): about.append('\n'.join(methods(node)))
    is_long = not isinstance(node, ast.FunctionDef) and code.count('\n') >= LONG
    parts = [f'## `{name}` {{#{name} .entry}}', source_link(name), fenced(code, is_long) if with_code else '']
    return '\n\n'.join(filter(None, [*parts, (lookup().linkify(as_markdown('\n\n'.join(about))) or '').strip()]))


# links

@cache
def lookup()->Any: # nbdev's
    "Find where names are documented and defined."
    from nbdev.doclinks import NbdevLookup
    return NbdevLookup()


def source_link(
    name:str, # public
)->str: # Markdown; '' for a name that is in no index
    "Link to the line of the module that defines a name."
    url = lookup().code(name)
    return f'[source]({url}){{.source}}' if url else ''


@cache
def pages()->dict[str, Path]: # address on the site, without the host → page, relative to nbs/
    "Find the page behind each address: nbdev takes the numbers off the names of files."
    from nbdev.config import get_config, nbpath2html
    root = Path(get_config().nbs_path)
    found = [path.relative_to(root) for path in root.rglob('*.ipynb')]
    return {nbpath2html(path).as_posix(): path for path in found if not re.search(r'(^|/)[._]', path.as_posix())}


def near_links(
    text:str, # Markdown
    folder:Path, # of the page, relative to nbs/
)->str: # Markdown
    "Make links to the site's own pages relative, and put no link into another."
    from nbdev.config import get_config
    own = re.escape(str(get_config().doc_host) + str(get_config().doc_baseurl).rstrip('/')) + '/'
    def near(match):
        return f']({relpath(pages()[match[1]], folder)}'.replace('\\', '/') if match[1] in pages() else match[0]
    def exact(match):
        return match[0].replace(f'#{match[2]})', f'#{match[1]})') if match[1].lower() == match[2] else match[0]
    text = re.sub(rf'\]\({own}([^)#]+?)(?:\.md)?(?=[#)])', near, text)
    text = re.sub(r'`([\w.]+)(?:\(\))?`\]\([^()#]+#([\w.]+)\)', exact, text) # nbdev lowers the names of classes
    return re.sub(r'(\[[^\[\]]*)\[(`[^`]+`)\]\([^()]*\)(?=[^\[\]]*\]\()', r'\1\2', text)


# outputs

def tidy_table(
    html:str, # of a DataFrame
)->str: # HTML
    "Take pandas' style sheet, border, running index and NaN out of a table."
    html = re.sub(r'<style.*?</style>\s*', '', html, flags=re.S)
    html = re.sub(r' border="1"| style="text-align: right;"', '', html).replace('<td>NaN</td>', '<td>–</td>')
    index = re.findall(r'<tr>\s*<th>(.*?)</th>\s*<td>', html, flags=re.S)
    if index and index == list(map(str, range(len(index)))) and '<th></th>' in html:
        html = re.sub(r'(<tr[^>]*>)\s*<th>\d*</th>', r'\1', html)
    return re.sub(r'^<div>', '<div class="wide">', html)


def plain_output(
    output:dict, # of a cell
)->dict: # the same, or what takes its place
    "Turn an output that Quarto would load scripts for into raw HTML, or into its text."
    data = output.get('data', {})
    if 'text/html' not in data: return output
    html = ''.join(data.pop('text/html'))
    if '<script' not in html: data['text/markdown'] = f'```{{=html}}\n{tidy_table(html)}\n```'
    return output


# pages

class SitePage:
    "Turn a processed notebook into a page of the site."
    def __init__(self,
        nb:Any, # fastcore's notebook, with nbdev's `directives_` of each cell
    ):
        self.nb = nb

    def begin(self)->None:
        "Rewrite all cells."
        from nbdev.config import get_config
        self.folder = Path(self.nb.path_).resolve().parent.relative_to(Path(get_config().nbs_path).resolve())
        self.nb.cells[:] = [new for cell in self.nb.cells for new in self.shown(cell)]

    def shown(self,
        cell:Any, # of the notebook
    )->Iterator[Any]: # cells
        "Return what a reader sees of a cell."
        cell.metadata.pop('execution', None)
        if cell.cell_type == 'markdown': cell.source = near_links(lookup().linkify(cell.source) or '', self.folder)
        if cell.cell_type != 'code': yield cell
        elif not UNSEEN & cell.directives_.keys():
            cell.outputs = [plain_output(output) for output in cell.get('outputs', [])]
            code, options = self.parts(cell)
            if {'export', 'exports'} & cell.directives_.keys(): yield from self.exported(cell, code, options)
            elif code.strip(): yield self.with_source(cell, code, options)

    def parts(self,
        cell:Any, # of code
    )->tuple[str, list[str]]: # code, and Quarto's options
        "Take the directives off a cell."
        lines = cell.source.splitlines()
        at = next((i for i, line in enumerate(lines) if not line.startswith('#|')), len(lines))
        options = [line for line in lines[:at] if line[2:].split(':')[0].strip() in OPTIONS]
        return '\n'.join(lines[at:]).strip('\n'), options

    def with_source(self, cell, code, options):
        cell.source = '\n'.join([*options, code])
        return cell

    def exported(self, cell, code, options):
        "Show an entry for each public name, and the source: folded, or where a page teaches it, open."
        lines, nodes, teaches = code.splitlines(), ast.parse(code).body, 'exports' in cell.directives_
        named = [(name, node) for node in nodes for name in names(node)]
        with_code = not teaches or len(named) > 1 # of several, each gets its own before the source of all
        for name, node in named:
            yield mk_cell(near_links(entry(name, node, lines, with_code), self.folder), 'markdown')
        hidden = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        if teaches or hidden: yield self.with_source(cell, code, options + ([] if teaches else fold(hidden)))

