"""The command line: reads words, calls the library, prints where the result is.

Hand-written and thin; the work is done in the rooms."""
from contextlib import contextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated
import codecs
import os
import shutil
import sys
import warnings

import typer
from typer.core import TyperGroup


# the console

PLAIN = { # what a console without UTF-8 shows instead; of anything else a question mark
    '–': '-', '−': '-', '…': '...', '’': "'", '“': '"', '”': '"', '×': 'x', '·': '.', '→': '->', '━': '=', '≥': '>=',
    'δ': 'delta'}


def write_plainly(error): # of encoding → what is written instead, and where to go on
    "Replace what a console can't show."
    return ''.join(PLAIN.get(letter, '?') for letter in error.object[error.start:error.end]), error.end


codecs.register_error('plainly', write_plainly)


def make_console_plain():
    "Let output replace what the console can't show, and never cut off the names of options."
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'): stream.reconfigure(errors='plainly')
    os.environ.setdefault('TERMINAL_WIDTH', str(max(100, shutil.get_terminal_size().columns))) # for typer


@contextmanager
def ending_with_pipe():
    "End quietly, as other programs do, when nobody reads the output any more (… | head)."
    try:
        try: yield
        finally: sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError): raise # rich's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()) # Python writes what is left when it ends
        raise typer.Exit(141) from error


class Commands(TyperGroup):
    "The commands; --help prints while their words are read, all else when they are called."
    def make_context(self, *args, **options):
        with ending_with_pipe(): return super().make_context(*args, **options)

    def invoke(self, ctx):
        with ending_with_pipe(): return super().invoke(ctx)


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode='markdown', help='Is this photograph of the retina good enough to diagnose from? '
                       'Train, evaluate and look at the mistakes.')


def option(help, *names, **settings): # of a command
    "Describe an option of a command."
    return typer.Option(*names, help=help, **settings)


def enough(n): # resamples
    "Refuse a number of resamples that makes no interval."
    if n and n < 100: raise typer.BadParameter(f'found {n}; expected at least 100 resamples, or 0 for no intervals.')
    return n


# options of several commands
PHOTOS = 'Folder with a folder per class, CSV or npz file with the photographs.'
Data = Annotated[Path, typer.Argument(metavar='DATA', help=PHOTOS)]
Out = Annotated[Path | None, option('Where to write; without it, a folder that is named after the data.',
                                    file_okay=False, metavar='FOLDER')]
Column = Annotated[list[str] | None, option(
    'A column that has another name in the CSV, e.g. `path=image` or `label=grade`; may be repeated.',
    metavar='HERE=THEIRS')]
Label = Annotated[list[str] | None, option(
    'A class that has another name in the data, e.g. `0=Good`; may be repeated.', metavar='THEIRS=CLASS')]
Classes = Annotated[str | None, option('Classes to keep, in this order; without it, all.', metavar='A,B,…')]
NBoot = Annotated[int, option('Resamples for the intervals, at least 100; 0: no intervals.', callback=enough)]
Overwrite = Annotated[bool, option('Replace what an earlier call has written there.', '--overwrite')]


@app.callback()
def prepare(
    extend: Annotated[list[Path] | None, option(
        'Python file with networks, metrics, degradations or sections of your own, which recipes may then name; '
        'may be repeated.', exists=True, dir_okay=False, metavar='FILE')] = None,
): # imports the files
    "Make ready for any command."
    warnings.filterwarnings('ignore', category=FutureWarning) # torch warns of its own jit when it is imported
    for file in extend or []: import_file(file)


def import_file(file): # the module
    "Import a Python file by its path."
    spec = spec_from_file_location(file.stem, file)
    if not spec or not spec.loader:
        raise typer.BadParameter(f'{file}: expected a name that ends in .py.', param_hint='--extend')
    module = sys.modules[file.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# run

ONLY = '--n-examples, --shared-scale, --stability and --cam' # what may be asked of a run that is there already


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(
        help='A shipped recipe (see `fundus recipes`) or the path of a TOML file.')] = '',
    data: Annotated[str | None, option(PHOTOS)] = None,
    column: Column = None,
    label: Label = None,
    corrections: Annotated[Path | None, option(
        'CSV with corrected labels, as `fundus review` writes it and a person fills it in (column corrected).',
        exists=True, dir_okay=False)] = None,
    folds: Annotated[int | None, option('Cross-validation: each photograph is tested once.')] = None,
    seed: Annotated[int | None, option('Seed of split, weights and order.')] = None,
    epochs: Annotated[int | None, option('Times that every training photograph is seen.')] = None,
    size: Annotated[int | None, option(
        'Side of the square that the network sees, px; 0: the size that a pretrained network was made for.')] = None,
    changes: Annotated[list[str] | None, option(
        'Any other setting of the recipe, e.g. `model.norm=group`; may be repeated.',
        '--set', metavar='SETTING=VALUE')] = None,
    out: Annotated[Path | None, option('The run folder; without it, a new one in runs/.')] = None,
    overwrite: Annotated[bool, option('Replace the run folder if it is there.', '--overwrite')] = False,
    n_examples: Annotated[int, option(
        'Photographs in each gallery of the report (mistakes, and right answers), any number; 0: none.', min=0)] = 12,
    cam: Annotated[str, option('Method of the class activation maps in the report.', metavar='METHOD')] = 'hirescam',
    shared_scale: Annotated[bool, option(
        'One colour scale for all heat maps of a gallery: shows how much, where one for each photograph shows where.',
        '--shared-scale')] = False,
    stability: Annotated[int, option(
        'Photographs that are degraded and changed after the training, to see what breaks an answer and what moves it; '
        '40 take a minute or more; 0: none.', min=0)] = 0,
    resume: Annotated[Path | None, option(
        'Go on with the run in this folder, which was ended before its end, or write the report of a finished one '
        f'again; its recipe holds, so only {ONLY} may be given.')] = None,
    skip_damaged: Annotated[bool, option('With --resume: pass over damaged checkpoints.', '--skip-damaged')] = False,
): # writes a run folder
    """Train on photographs, evaluate, explain the mistakes, and write a report.

    Without a recipe: the embedded synthetic set."""
    named = {
        # absolute, so that the saved recipe works from any folder
        'data.source': data and os.path.abspath(Path(data).expanduser()),
        'data.columns': pairs(column, '--column', file_first=False) or None,
        'data.labels': pairs(label, '--label') or None,
        'data.corrections': corrections and str(corrections.absolute()), 'data.folds': folds, 'data.size': size,
        'seed': seed, 'training.epochs': epochs}
    given = {name: value for name, value in named.items() if value is not None}
    if resume and (given or recipe or changes or out or overwrite):
        raise typer.BadParameter('it goes on with the recipe in the folder: give no recipe and no other option than '
                                 f'{ONLY}.', param_hint='--resume')
    if skip_damaged and not resume: raise typer.BadParameter('it belongs to --resume.', param_hint='--skip-damaged')
    shown = dict(n_examples=n_examples, shared=shared_scale, n_stability=stability, cam=cam)
    if not resume: return follow(choose_recipe(recipe, changes, given), folder=out, overwrite=overwrite, **shown)
    from fundus_nbdev.training.run_folder import unfinished_recipe
    follow(unfinished_recipe(resume), folder=resume, resume=True, skip_damaged=skip_damaged, **shown)


def choose_recipe(name, changes, given): # Recipe
    "Find the recipe that is meant, and change the settings that were named."
    from fundus_nbdev.core.errors import RecipeError
    from fundus_nbdev.training.recipe import change_values, make_recipe, read_recipe, read_toml, recipe_file
    file = recipe_file(name or ('photographs' if given.get('data.source') else 'synthetic'))
    values = change_values(change_values(read_toml(file), changes or []), given)
    try: return make_recipe(values)
    except RecipeError:
        if name and name.endswith('.toml'): read_recipe(file) # a fault of the file is told with its name
        raise


def follow(recipe, **options): # writes a run folder
    "Follow a recipe, in this process or, under torchrun, in several."
    from fundus_nbdev.training.processes import end_processes, start_processes
    from fundus_nbdev.use.run import run as run_recipe # takes seconds, so only now that the recipe is right
    main = start_processes()
    try: done = run_recipe(recipe, progress=True, **options)
    except KeyboardInterrupt as stop:
        if main and not str(stop): print('Stopped.', file=sys.stderr) # else the run has said where it is saved
        raise typer.Exit(130) from stop # as shells expect of a program that Ctrl-C ended
    finally: end_processes()
    if done: print(f'Report: {done.folder/"report.html"}') # only one of several processes has it


# evaluate

@app.command()
def evaluate(
    files: Annotated[list[Path], typer.Argument(
        exists=True, dir_okay=False, help='CSV files with a row a photograph: predictions.csv of a run, or anybody\'s. '
                                          'Two or more are compared as well.')],
    column: Annotated[list[str] | None, option(
        'A column that has another name in the file, e.g. `path=image` or `p_Good=prob_good`; may be repeated.',
        metavar='HERE=THEIRS')] = None,
    label: Annotated[list[str] | None, option(
        'A class that has another name in the file, e.g. `0=Good`; may be repeated.', metavar='THEIRS=CLASS')] = None,
    negative: Annotated[str | None, option(
        'Of two classes the one that has no column of its own.', metavar='CLASS')] = None,
    values: Annotated[str, option(
        'What the columns p_CLASS hold: probabilities, percent, logits, or scores of each class by itself, '
        'of which each row is divided by its sum.', metavar='KIND')] = 'probabilities',
    decimal: Annotated[str, option('Decimal sign, a point or a comma.', metavar='SIGN')] = '.',
    split: Annotated[list[str] | None, option(
        'Part to score: test, valid or train; may be repeated. '
        'Without it the test part, or every row where the file names no parts.', metavar='PART')] = None,
    group: Annotated[str, option(
        'Photographs with one value here are drawn together for the intervals; none: each by itself.',
        metavar='COLUMN')] = 'patient',
    n_boot: NBoot = 2000,
    seed: Annotated[int, option('Seed of the resamples.', min=0)] = 0,
    metric: Annotated[str, option('What several files are compared by.')] = 'macro_auc',
    common: Annotated[bool, option(
        'Compare the photographs that all files have, where some lack some.', '--common')] = False,
    out: Annotated[Path | None, option(
        'Where to write metrics.csv and figures/ (confusion matrix, ROC, precision–recall, reliability, risk over '
        'coverage); each of several files gets a folder in it.', file_okay=False, metavar='FOLDER')] = None,
    overwrite: Overwrite = False,
): # prints tables; with --out, writes files
    "Score predictions: every metric with its 95 % interval. What the network has seen in training is never mixed in."
    reading = dict(columns=pairs(column, '--column', file_first=False), labels=pairs(label, '--label'),
                   negative=negative, values=values, decimal=decimal)
    scoring = dict(split=split or None, group=None if group == 'none' else group, n_boot=n_boot, seed=seed)
    named = dict(zip(file_names(files), files))
    folders = {name: out/name if len(named) > 1 else out for name in named} if out else {}
    from fundus_nbdev.core.errors import PredictionError
    from fundus_nbdev.core.output_folder import report_folder
    last = 'comparison.csv' if len(named) > 1 else 'metrics.csv'
    try:
        with report_folder(out, 'evaluate', last, overwrite):
            score(named, reading, scoring, dict(metric=metric, common=common), folders, out)
    except BrokenPipeError: raise
    except (ValueError, OSError) as error:
        if not (from_here(error) or isinstance(error, OSError)): raise
        print(f'fundus: {error}{OPTIONS if isinstance(error, PredictionError) else ""}', file=sys.stderr)
        raise typer.Exit(2) from error


OPTIONS = """
Options of the command: columns={'image': 'path'} is --column path=image, labels={'0': 'Good'} is --label 0=Good,
group=None is --group none; --negative, --values, --decimal, --split, --common are as they are called here."""


def pairs(words, option, file_first=True): # name in the file → name here
    "Read what an option says in words such as 0=Good."
    found = []
    for word in words or []:
        found.append(word.partition('=')[::2 if file_first else -2])
        if not all(found[-1]): raise typer.BadParameter(f'{word!r} needs a name on both sides of =.', param_hint=option)
    if len(dict(found)) < len(found): raise typer.BadParameter('a name of the file is there twice.', param_hint=option)
    return dict(found)


def file_names(files): # one a file
    "Name several files by their names, or by their folders where these are all predictions.csv."
    for names in ([file.stem for file in files], [file.absolute().parent.name for file in files]):
        if len(set(names)) == len(files): return names
    raise typer.BadParameter('the names of the files, or of their folders, must differ.', param_hint='FILES...')


def score(files, reading, scoring, comparing, folders, out): # prints tables; where there are folders, writes files
    "Evaluate each file, then compare them."
    from fundus_nbdev.core.files import write_whole
    from fundus_nbdev.evaluation.metrics import evaluate as measure
    from fundus_nbdev.evaluation.predictions import scored_part
    from fundus_nbdev.evaluation.reading import read_predictions
    from fundus_nbdev.use.narrative import describe_few
    tables = {name: read_predictions(file, **reading) for name, file in files.items()}
    compared = None
    if len(tables) > 1: compared = compare(tables, comparing, scoring) # first, as it refuses what can't be compared
    for name, table in tables.items():
        metrics = measure(table, **scoring)
        if len(tables) > 1: print(f'{name} ({files[name]})')
        print_metrics(table, metrics, scoring)
        for caution in describe_few(metrics, scored_part(table, scoring['split'])): print(caution)
        if folders: save_metrics(folders[name], table, metrics, scoring)
    if compared is not None:
        print_comparison(compared, comparing['metric'])
        if out: write_whole(out/'comparison.csv', compared.to_csv())
    if out: print(f'Written: {out}')


def compare(tables, comparing, scoring): # of `compare_models`
    "Compare several files, and print what was said on the way."
    from fundus_nbdev.evaluation.compare import compare_models
    with warnings.catch_warnings(record=True) as said: compared = compare_models(tables, **comparing, **scoring)
    for warning in said: print(warning.message)
    return compared


def describe_scored(table, metrics, scoring): # sentences
    "Say what was scored."
    from fundus_nbdev.core.text import counted
    group, n_groups = scoring['group'], metrics.attrs['n_groups']
    strangers = group == 'patient' and table['patient'].equals(table['path'])
    people = f' in {counted(n_groups, "group")} ({group})'
    if group == 'patient': people = f' of {counted(n_groups, "patient")}'
    if strangers or group is None: people = ''
    part = f'the {" and ".join(scoring["split"] or ["test"])} part' if 'split' in table else 'every row of the file'
    yield f'Scored: {part}, {counted(metrics.attrs["n_photos"], "photograph")}{people}.'
    if 'fold' in table and table['fold'].nunique() > 1:
        yield (f'{counted(table["fold"].nunique(), "network")} of cross-validation: the AUCs rank their scores '
               'together, which makes them a little too low; between files, AUCs are compared within folds.')
    if strangers:
        yield ('No patients are known: each photograph counts as a patient of its own. '
               'If a column names them, add --column patient=ITS_NAME.')


def print_metrics(table, metrics, scoring): # prints
    "Print what was scored, the metrics over all classes and for each, and what the intervals are."
    from fundus_nbdev.core.text import counted, listed
    from fundus_nbdev.evaluation.metrics import format_interval, metric_names, noisy_metrics, per_class
    for sentence in describe_scored(table, metrics, scoring): print(sentence)
    overall = metrics.loc[metric_names([])].itertuples()
    print_rows(['metric', 'value (95 % interval)'],
               [[name, format_interval(value, low, high, 3)] for name, value, low, high in overall])
    classes = per_class(metrics).map(lambda text: text.replace(' (', '\n(')).reset_index() # else it is too wide
    print_rows(classes, classes.to_numpy())
    group, n_boot = scoring['group'], metrics.attrs['n_boot']
    over = {'patient': 'patients', None: 'photographs'}.get(group, f'values of {group}')
    if n_boot:
        print(f'Intervals: BCa bootstrap over {over}, {counted(n_boot, "resample")}; '
              f'that of {listed(noisy_metrics())} is only indicative.')


def print_comparison(compared, metric): # prints
    "Print which of the files is better, pair by pair."
    from fundus_nbdev.evaluation.metrics import format_interval
    rows = []
    for row in compared.itertuples():
        p = '< 0.001' if row.p_holm < .001 else format_interval(row.p_holm, digits=3)
        values = [format_interval(value, digits=3) for value in (row.value_a, row.value_b)]
        rows.append([row.a, row.b, *values, format_interval(row.difference, row.low, row.high, 3, signed=True), p])
    print_rows(['a', 'b', f'{metric} of a', 'of b', 'a − b (95 % interval)', 'p (Holm)'], rows)
    print('a and b are compared on the same photographs and the same resamples; '
          'p is corrected for the number of pairs.')
    if compared['low'].isna().any():
        print('Without an interval, nothing says whether a difference is more than chance.')
    elif compared['p'].isna().any():
        print(f'–: noise makes {metric} larger, so it has no p, and its interval is a spread.')
    print('Where the interval just misses zero and p does not agree, the photographs can not tell.')


def print_rows(names, rows): # prints
    "Print a table; its words are no markup."
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    table = Table(box=SIMPLE_HEAD)
    for i, name in enumerate(names): table.add_column(str(name), justify='right' if i else 'left')
    for row in rows: table.add_row(*map(str, row))
    Console(width=10**6, highlight=False, markup=False, emoji=False).print(table) # whole cells, however narrow it is


def save_metrics(folder, table, metrics, scoring): # writes metrics.csv and figures/*.png
    "Write the metrics of one file, and what is drawn of it."
    from fundus_nbdev.core.files import write_whole
    from fundus_nbdev.evaluation import confusion, curve_figures, reliability, risk_coverage
    rows = dict(split=scoring['split'], group=scoring['group'])
    given = rows | dict(seed=scoring['seed'], metrics=metrics)
    figures = dict(confusion=confusion.plot_confusion(table, scoring['split']),
                   roc=curve_figures.plot_roc(table, **given),
                   precision_recall=curve_figures.plot_precision_recall(table, **given),
                   reliability=reliability.plot_reliability(table, **rows),
                   risk_coverage=risk_coverage.plot_risk_coverage(table, **rows))
    write_whole(folder/'metrics.csv', metrics.to_csv())
    for name, figure in figures.items(): write_whole(folder/'figures'/f'{name}.png', partial(figure.savefig, dpi=180))


# eda, audit, review

@app.command()
def eda(
    data: Data,
    out: Out = None,
    column: Column = None,
    label: Label = None,
    classes: Classes = None,
    crop: Annotated[str | None, option(
        'fov: what is inside the field of view; whole: the picture as it is. '
        'Without it, whichever suits most photographs.', metavar='KIND')] = None,
    n_examples: Annotated[int, option('Photographs of each class in the montage.', min=1)] = 12,
    n_boot: NBoot = 2000,
    overwrite: Overwrite = False,
): # writes eda.html, figures and tables
    "Look at the data: counts, cameras, colours, montages, and what makes a photograph Good or Bad there."
    from fundus_nbdev.audit.eda import describe_answer, describe_counts, summarise_eda, look_at_data
    from fundus_nbdev.audit.cameras import describe_cameras
    from fundus_nbdev.core.output_folder import name_after
    from fundus_nbdev.core.progress import Progress
    count = Progress('auto').counter('Looking at photographs')
    out = out or Path('eda')/name_after(data)
    done = look_at_data(data, out, overwrite, count, names_in(classes) or None, crop, n_examples, n_boot,
                        **names_given(column, label))
    print(describe_counts(done), describe_cameras(done.measures, done.cameras), '', summarise_eda(done), sep='\n')
    for question, sentences in describe_answer(done).items(): print(f'\n{question}: {" ".join(sentences)}')
    if done.left_out: print('', *done.left_out, sep='\n')
    print(f'\nWritten: {out}/eda.html')


@app.command()
def audit(
    data: Annotated[Path, typer.Argument(
        metavar='DATA', help='Folder with a folder per class, CSV or npz file with the photographs, or the folder of '
                             'a run: its split is audited then.')],
    out: Out = None,
    column: Column = None,
    label: Label = None,
    classes: Classes = None,
    suspect: Annotated[str | None, option(
        'Further columns of the CSV that may give the label away, such as a clinic.', metavar='A,B,…')] = None,
    network: Annotated[bool, option(
        'Ask a neural network, too, which photographs look alike.', '--network/--no-network')] = True,
    n_boot: NBoot = 2000,
    overwrite: Overwrite = False,
): # writes audit.html and tables
    "Find what is wrong with the data: copies, patients on two sides, contradicting labels, what gives labels away."
    from fundus_nbdev.audit.audit import audit_data, summarise_findings
    from fundus_nbdev.core.output_folder import name_after
    from fundus_nbdev.core.progress import Progress
    progress = Progress('auto')
    count = progress.counter('Auditing, eight steps a photograph')
    out = out or Path('audit')/name_after(data)
    done = audit_data(data, out, overwrite, count, names_in(classes) or None, network,
                      tuple(names_in(suspect)), n_boot, **names_given(column, label))
    print(summarise_findings(done))
    for row in done.findings.itertuples():
        print(f'\n{row.severity.upper()}, {row.subject}: {row.finding}\n  {row.advice}')
    print(f'\nWritten: {out}/audit.html')


def names_given(column, label): # of `read_table`
    "Read how columns and classes are called in the data."
    return dict(columns=pairs(column, '--column', file_first=False), labels=pairs(label, '--label'))


def names_in(words): # list of str
    "Split words at commas."
    return [name.strip() for name in (words or '').split(',') if name.strip()]


@app.command()
def review(
    source: Annotated[Path, typer.Argument(
        metavar='RUN', help='Folder of a finished run (with --folds, every photograph is reviewed), or a CSV of '
                            'predictions of photographs that were not trained on.')],
    out: Annotated[Path | None, option(
        'Where to write; without it, the folder review beside the predictions.',
        file_okay=False, metavar='FOLDER')] = None,
    column: Column = None,
    label: Label = None,
    second: Annotated[bool, option(
        'Ask a simple classifier on ImageNet features and quality factors too.',
        '--second-opinion/--no-second-opinion')] = True,
    shown: Annotated[int, option('Photographs on the page and on the contact sheet.', '--n-examples', min=1)] = 60,
): # writes review.csv, review.html and contact_sheet.png
    "Order the photographs by how doubtful their labels are, for a person to look at again, and write a CSV to correct."
    from fundus_nbdev.errors.label_issues import review as review_run
    from fundus_nbdev.core.progress import Progress
    progress = Progress('auto')
    done = review_run(source, out, second, shown, progress.say, progress.counter, **names_given(column, label))
    print(done.verdict)
    print_rows(['rank', 'label', 'suggestion', 'p(label)', 'photograph'],
               [[row.rank, row.label, row.suggestion, f'{row.p_label:.2f}', Path(row.path).name]
                for row in done.order.head(10).itertuples()])
    print(f'Written: {done.folder/"review.html"}\nCorrect labels in {done.folder/"review.csv"} (column corrected), '
          f'then: fundus run … --corrections {done.folder/"review.csv"}')


# explain

@app.command()
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar='PHOTO', help='Photographs, or folders of them.')],
    bundle: Annotated[Path, option('The network: the folder of a run, or a bundle.', metavar='RUN')],
    methods: Annotated[str, option(
        'Any of hirescam, gradcam, eigencam, occlusion, smoothgrad, …; `all`: every one. A wrong name lists them.',
        metavar='A,B,…')] = 'hirescam',
    classes: Annotated[str | None, option(
        'Classes to explain; `all`: every one; without it, the one that each photograph is called.',
        metavar='A,B,…')] = None,
    layer: Annotated[str | None, option(
        'Layer to look at, by its name in the network, such as `layer3.1`, or by the least size of its maps: `14` is '
        'the last layer with maps of 14 × 14 or more; without it, the last with more than 7 × 7.',
        metavar='NAME|SIZE')] = None,
    fold: Annotated[int | None, option(
        'Of a run with folds, the network to explain with; without it, the one that had not seen the photograph, '
        'and the first for photographs that are not of the run.', min=0, metavar='K')] = None,
    out: Annotated[Path | None, option(
        'Where to write; without it, a folder that is named after the first photograph or folder.',
        file_okay=False, metavar='FOLDER')] = None,
    overwrite: Overwrite = False,
): # writes pictures/, maps/ and explanations.csv
    "Show which places of photographs made a trained network say what it says: pictures, raw maps and a table."
    from fundus_nbdev.core.output_folder import name_after
    from fundus_nbdev.core.progress import Progress
    from fundus_nbdev.use.explain_files import describe_explained, explain_files
    out = out or Path('explain')/name_after(photos[0])
    done = explain_files(photos, bundle, out, names_in(methods), names_in(classes) or None, layer, fold, overwrite,
                         Progress('auto'))
    for sentence in describe_explained(done): print(sentence)
    print(f'\nWritten: {out}/explanations.csv, {out}/pictures/, {out}/maps/')


@app.command()
def recipes(): # prints a table
    "List the recipes that ship with the package."
    from fundus_nbdev.training.recipe import RECIPES, read_toml, recipe_names
    for name in recipe_names(): print(f'{name:12} {read_toml(RECIPES/f"{name}.toml")["about"]}')


def from_here(error): # bool
    "Tell an error of this package, whose message says how to mend it, from any other."
    return type(error).__module__.split('.')[0] == 'fundus_nbdev'


def main(): # the command `fundus`
    "Run the command line; an error that the user can mend is printed without a traceback."
    make_console_plain()
    try: app()
    except (ValueError, OSError) as error:
        if not from_here(error): raise
        sys.exit(f'fundus: {error}')


if __name__ == '__main__': main() # torchrun -m fundus_nbdev.cli
