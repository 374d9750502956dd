"The command line: reads words, calls the library, prints where the result is. Hand-written and thin; the work is done in the rooms."
from pathlib import Path
from typing import Annotated, Optional
import sys
import warnings

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode='markdown',
                  help='Is this photograph of the retina good enough to diagnose from? Train, evaluate and look at the mistakes.')


@app.callback()
def _commands(): warnings.filterwarnings('ignore', category=FutureWarning) # torch warns of its own jit when it is imported


@app.command()
def run(
    recipe:Annotated[str, typer.Argument(help='A shipped recipe (see `fundus recipes`) or the path of a TOML file.')] = '',
    data:Annotated[Optional[str], typer.Option(help='Folder with a folder per class, CSV or npz file with the photographs.')] = None,
    corrections:Annotated[Optional[Path], typer.Option(exists=True, dir_okay=False, help='CSV with corrected labels, as `fundus review` writes it and a person fills it in (column corrected).')] = None,
    folds:Annotated[Optional[int], typer.Option(help='Cross-validation: each photograph is tested once.')] = None,
    seed:Annotated[Optional[int], typer.Option(help='Seed of split, weights and order.')] = None,
    epochs:Annotated[Optional[int], typer.Option(help='Times that every training photograph is seen.')] = None,
    size:Annotated[Optional[int], typer.Option(help='Side of the square that the network sees, px.')] = None,
    changes:Annotated[Optional[list[str]], typer.Option('--set', metavar='SETTING=VALUE', help='Any other setting of the recipe, e.g. `model.norm=group`; may be repeated.')] = None,
    out:Annotated[Optional[Path], typer.Option(help='The run folder; without it, a new one in runs/.')] = None,
    overwrite:Annotated[bool, typer.Option('--overwrite', help='Replace the run folder if it is there.')] = False,
    gallery:Annotated[int, typer.Option(min=0, help='Photographs in each gallery of the report (mistakes, and right answers), any number; 0: none.')] = 12,
    shared_scale:Annotated[bool, typer.Option('--shared-scale', help='One colour scale for all heat maps of a gallery: shows how much, where one for each photograph shows where.')] = False,
    stability:Annotated[int, typer.Option(min=0, help='Photographs that are degraded and changed after the training, to see what breaks an answer and what moves it; 40 take a minute or more; 0: none.')] = 0,
    resume:Annotated[Optional[Path], typer.Option(help='Go on with the run in this folder, which was ended before its end, or write the report of a finished one again; its recipe holds, so only --n-examples, --shared-scale and --stability may be given.')] = None,
    skip_damaged:Annotated[bool, typer.Option('--skip-damaged', help='With --resume: pass over damaged checkpoints.')] = False,
): # writes a run folder
    "Train on photographs, evaluate, explain the mistakes, and write a report. Without a recipe: the embedded synthetic set."
    from fundus_nbdev.training.recipe import find_recipe, override
    asked = [value is not None for value in (data, corrections, folds, seed, epochs, size, out)] + [bool(recipe), bool(changes), overwrite]
    if resume and any(asked): raise typer.BadParameter('it goes on with the recipe in the folder: give no recipe and no other option than --n-examples, --shared-scale and --stability.', param_hint='--resume')
    if skip_damaged and not resume: raise typer.BadParameter('it belongs to --resume.', param_hint='--skip-damaged')
    shown = dict(n_gallery=gallery, shared=shared_scale, n_stability=stability)
    if resume: return go_on(resume, skip_damaged=skip_damaged, **shown)
    if data: data = str(Path(data).expanduser().absolute()) # so that the saved recipe works from any folder
    named = {'data.source': data, 'data.corrections': str(corrections.absolute()) if corrections else None, 'data.folds': folds, 'seed': seed, 'training.epochs': epochs, 'data.size': size}
    base = find_recipe(recipe or ('photographs' if data else 'synthetic'))
    chosen = override(override(base, changes or []), {name: value for name, value in named.items() if value is not None})
    follow(chosen, folder=out, overwrite=overwrite, **shown)


def go_on(folder, **options): # writes into the run folder
    "Take up a run that was ended before its end."
    from fundus_nbdev.training.run_folder import unfinished_recipe
    follow(unfinished_recipe(folder), folder=folder, resume=True, **options)


def follow(recipe, **options): # writes a run folder
    "Follow a recipe, in this process or, under torchrun, in several."
    from fundus_nbdev.training.distributed import end_processes, start_processes
    from fundus_nbdev.use.run import run as run_recipe # takes seconds, so only now that the recipe is right
    main = start_processes()
    try: done = run_recipe(recipe, progress=True, **options)
    except KeyboardInterrupt as stop:
        if main and not str(stop): print('Stopped.', file=sys.stderr) # else the run has said where it is saved
        raise typer.Exit(130) from stop # as shells expect of a program that Ctrl-C ended
    finally: end_processes()
    if done: print(f'Report: {done.folder/"report.html"}') # only one of several processes has it


@app.command()
def evaluate(
    files:Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="CSV files with a row a photograph: predictions.csv of a run, or anybody's. Two or more are compared as well.")],
    column:Annotated[Optional[list[str]], typer.Option(metavar='HERE=THEIRS', help='A column that has another name in the file, e.g. `path=image` or `p_Good=prob_good`; may be repeated.')] = None,
    label:Annotated[Optional[list[str]], typer.Option(metavar='THEIRS=CLASS', help='A class that has another name in the file, e.g. `0=Good`; may be repeated.')] = None,
    negative:Annotated[Optional[str], typer.Option(metavar='CLASS', help='Of two classes the one that has no column of its own.')] = None,
    values:Annotated[str, typer.Option(metavar='KIND', help='What the columns p_CLASS hold: probabilities, percent or logits.')] = 'probabilities',
    decimal:Annotated[str, typer.Option(metavar='SIGN', help='Decimal sign, a point or a comma.')] = '.',
    split:Annotated[Optional[list[str]], typer.Option(metavar='PART', help='Part to score: test, valid or train; may be repeated. Without it the test part, or every row where the file names no parts.')] = None,
    group:Annotated[str, typer.Option(metavar='COLUMN', help='Photographs with one value here are drawn together for the intervals; none: each by itself.')] = 'patient',
    boot:Annotated[int, typer.Option(min=0, help='Resamples for the intervals; 0: no intervals.')] = 2000,
    seed:Annotated[int, typer.Option(min=0, help='Seed of the resamples.')] = 0,
    metric:Annotated[str, typer.Option(help='What several files are compared by.')] = 'macro_auc',
    common:Annotated[bool, typer.Option('--common', help='Compare the photographs that all files have, where some lack some.')] = False,
    out:Annotated[Optional[Path], typer.Option(file_okay=False, metavar='FOLDER', help='Where to write metrics.csv and figures/ (confusion matrix, ROC, precision–recall, reliability, risk over coverage); each of several files gets a folder in it.')] = None,
    overwrite:Annotated[bool, typer.Option('--overwrite', help='Replace metrics.csv if it is there.')] = False,
): # prints tables; with --out, writes files
    "Score predictions: every metric with its 95 % interval. What the network has seen in training is never mixed in."
    reading = dict(columns=pairs(column, '--column', file_first=False), labels=pairs(label, '--label'), negative=negative, values=values, decimal=decimal)
    scoring = dict(split=split or None, group=None if group == 'none' else group, n_boot=boot, seed=seed)
    named = dict(zip(file_names(files), files))
    folders = {name: out/name if len(named) > 1 else out for name in named} if out else {}
    written = [folder/'metrics.csv' for folder in folders.values()] + [out/'comparison.csv'] * (len(folders) > 1) if out else []
    if not overwrite and (there := [file for file in written if file.exists()]):
        raise typer.BadParameter(f'{there[0]} is there; choose another folder, or add --overwrite.', param_hint='--out')
    warnings.filterwarnings('ignore', category=FutureWarning)
    try: score(named, reading, scoring, dict(metric=metric, common=common), folders, out)
    except (ValueError, OSError) as error:
        if not (from_here(error) or isinstance(error, OSError)): raise
        print(f'fundus: {error}{OPTIONS * from_here(error)}', file=sys.stderr)
        raise typer.Exit(2) from error


OPTIONS = "\nOptions of the command: columns={'image': 'path'} is --column path=image, labels={'0': 'Good'} is --label 0=Good, group=None is --group none; --negative, --values, --decimal, --split, --common are as they are called here."


def pairs(words, option, file_first=True): # name in the file → name here
    "What an option says in words such as 0=Good."
    found = [word.partition('=')[::2 if file_first else -2] for word in words or []]
    if wrong := [word for word, two in zip(words or [], found) if not all(two)]:
        raise typer.BadParameter(f'{wrong[0]!r} needs a name on both sides of =.', param_hint=option)
    if len(dict(found)) < len(found): raise typer.BadParameter('a name of the file is there twice.', param_hint=option)
    return dict(found)


def file_names(files): # one a file
    "What to call several files: by their names, or by their folders where these are all predictions.csv."
    for names in ([file.stem for file in files], [file.absolute().parent.name for file in files]):
        if len(set(names)) == len(files): return names
    raise typer.BadParameter('the names of the files, or of their folders, must differ.', param_hint='FILES...')


def score(files, reading, scoring, comparing, folders, out): # prints tables; where there are folders, writes files
    "Evaluate each file, then compare them."
    from fundus_nbdev.core.files import write_whole
    from fundus_nbdev.evaluation.metrics import evaluate as measure
    from fundus_nbdev.evaluation.predictions import read_predictions
    tables = {name: read_predictions(file, **reading) for name, file in files.items()}
    if len(tables) > 1:
        from fundus_nbdev.evaluation.compare import compare_models
        with warnings.catch_warnings(record=True) as said: compared = compare_models(tables, **comparing, **scoring) # first, as it refuses what can't be compared
        for warning in said: print(warning.message)
    for name, table in tables.items():
        metrics = measure(table, **scoring)
        if len(tables) > 1: print(f'{name} ({files[name]})')
        print_metrics(table, metrics, scoring)
        if folders: save_metrics(folders[name], table, metrics, scoring)
    if len(tables) > 1:
        print_comparison(compared, comparing['metric'], scoring['n_boot'])
        if out: write_whole(out/'comparison.csv', compared.to_csv())
    if out: print(f'Written: {out}')


def print_metrics(table, metrics, scoring): # prints
    "What was scored, the metrics over all classes and for each, and what the intervals are."
    from fundus_nbdev.core.text import counted
    from fundus_nbdev.evaluation.metrics import format_interval, metric_names, per_class
    group, n_boot, n_groups = scoring['group'], metrics.attrs['n_boot'], metrics.attrs['n_groups']
    strangers = group == 'patient' and table['patient'].equals(table['path'])
    people = '' if strangers else {'patient': f' of {counted(n_groups, "patient")}', None: ''}.get(group, f' in {counted(n_groups, "group")} ({group})')
    part = f'the {" and ".join(scoring["split"] or ["test"])} part' if 'split' in table else 'every row of the file'
    print(f'Scored: {part}, {counted(metrics.attrs["n_photos"], "photograph")}{people}.')
    if table.get('fold', table['path'].head(1)).nunique() > 1: print(f'{counted(table["fold"].nunique(), "network")} of cross-validation: the AUCs rank their scores together, which makes them a little too low; between files, AUCs are compared within folds.')
    if strangers: print('No column patient: each photograph counts as a patient of its own. If a column names the patients, add --column patient=ITS_NAME.')
    overall = metrics.loc[metric_names([])].reset_index()
    print_rows(['metric', 'value (95 % interval)'], [[name, format_interval(*row, digits=3)] for name, *row in overall.to_numpy()])
    classes = per_class(metrics).map(lambda text: text.replace(' (', '\n(')).reset_index() # the interval below, or the table is too wide
    print_rows(list(classes), classes.to_numpy().tolist())
    over = {'patient': 'patients', None: 'photographs'}.get(group, f'values of {group}')
    print(f'Intervals: BCa bootstrap over {over}, {counted(n_boot, "resample")}; that of ece is only indicative.' if n_boot else f'No intervals: they need resamples (--n-boot) and at least two {over}.')


def print_comparison(compared, metric, n_boot): # prints
    "Which of the files is better, pair by pair."
    print_rows(['a', 'b', f'{metric} of a', 'of b', 'a − b (95 % interval)', 'p (Holm)'],
               [[row.a, row.b, f'{row.value_a:.3f}', f'{row.value_b:.3f}', f'{row.difference:+.3f} ({row.low:+.3f} to {row.high:+.3f})' if n_boot else f'{row.difference:+.3f}',
                 '–' if not n_boot else '< 0.001' if row.p_holm < .001 else f'{row.p_holm:.3f}'] for row in compared.itertuples()])
    print('a and b are compared on the same photographs and the same resamples; p is corrected for the number of pairs.\nWhere the interval just misses zero and p does not agree, the photographs can not tell.')


def print_rows(names, rows): # prints
    "A table on the terminal; its words are no markup."
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    table = Table(box=SIMPLE_HEAD)
    for i, name in enumerate(names): table.add_column(Text(str(name)), justify='right' if i else 'left')
    for row in rows: table.add_row(*[Text(str(cell)) for cell in row])
    Console(highlight=False).print(table)


def save_metrics(folder, table, metrics, scoring): # writes metrics.csv and figures/*.png
    "The metrics of one file, and what is drawn of it."
    from fundus_nbdev.core.files import write_whole
    from fundus_nbdev.evaluation.selective import plot_risk_coverage
    from fundus_nbdev.evaluation.curves import plot_precision_recall, plot_roc
    from fundus_nbdev.evaluation.metrics import plot_confusion
    from fundus_nbdev.evaluation.reliability import plot_reliability
    same = dict(split=scoring['split'], group=scoring['group'], seed=scoring['seed'], metrics=metrics)
    figures = dict(confusion=plot_confusion(table, scoring['split']), roc=plot_roc(table, **same), precision_recall=plot_precision_recall(table, **same),
                   reliability=plot_reliability(table, split=scoring['split'], group=scoring['group']), risk_coverage=plot_risk_coverage(table, split=scoring['split'], group=scoring['group']))
    write_whole(folder/'metrics.csv', metrics.to_csv())
    for name, figure in figures.items(): write_whole(folder/'figures'/f'{name}.png', lambda file: figure.savefig(file, dpi=180))


@app.command()
def eda(
    data:Annotated[Path, typer.Argument(metavar='DATA', help='Folder with a folder per class, CSV or npz file with the photographs.')],
    out:Annotated[Optional[Path], typer.Option(file_okay=False, metavar='FOLDER', help='Where to write; without it, eda/<name of the data>.')] = None,
    classes:Annotated[Optional[str], typer.Option(metavar='A,B,…', help='Classes to keep, in this order; without it, all.')] = None,
    crop:Annotated[Optional[str], typer.Option(metavar='KIND', help="fov: what is inside the field of view; whole: the picture as it is. Without it, whichever suits most photographs.")] = None,
    examples:Annotated[int, typer.Option(min=1, help='Photographs of each class in the montage.')] = 12,
    boot:Annotated[int, typer.Option(min=0, help='Resamples for the intervals; 0: no intervals.')] = 2000,
    overwrite:Annotated[bool, typer.Option('--overwrite', help='Replace an earlier look in the folder.')] = False,
): # writes eda.html, figures and tables
    "Look at the data: counts, cameras, colours, montages, and what makes a photograph Good or Bad there."
    from fundus_nbdev.audit.eda import describe_answer, describe_cameras, describe_counts, headline, look_at_data
    from fundus_nbdev.training.run_folder import Progress
    source = data.expanduser().absolute()
    done = look_at_data(source, out or Path('eda')/source.stem, overwrite, Progress('auto').counter('Looking at photographs'),
                        names_in(classes) or None, crop, examples, boot)
    print(describe_counts(done), describe_cameras(done), '', headline(done), sep='\n')
    for question, sentences in describe_answer(done).items(): print(f'\n{question}: {" ".join(sentences)}')
    for path, why in done.unreadable.items(): print(f'Left out: {why}')
    print(f'\nWritten: {done.folder/"eda.html"}')


@app.command()
def audit(
    data:Annotated[Path, typer.Argument(metavar='DATA', help='Folder with a folder per class, CSV or npz file with the photographs, or the folder of a run: its split is audited then.')],
    out:Annotated[Optional[Path], typer.Option(file_okay=False, metavar='FOLDER', help='Where to write; without it, audit/<name of the data>.')] = None,
    classes:Annotated[Optional[str], typer.Option(metavar='A,B,…', help='Classes to keep; without it, all.')] = None,
    columns:Annotated[Optional[str], typer.Option(metavar='A,B,…', help='Further columns of the CSV that may give the label away, such as a clinic.')] = None,
    network:Annotated[bool, typer.Option('--network/--no-network', help='Compare the features of a network, too (downloads 5 MB once).')] = True,
    boot:Annotated[int, typer.Option(min=100, help='Resamples for the intervals.')] = 2000,
    overwrite:Annotated[bool, typer.Option('--overwrite', help='Replace an earlier audit in the folder.')] = False,
): # writes audit.html and tables
    "What is wrong with the data: photographs that are there twice, patients on two sides, contradicting labels, and what gives the label away without being the retina."
    from fundus_nbdev.audit.audit import audit_data, headline
    from fundus_nbdev.training.run_folder import Progress
    source, progress = data.expanduser().absolute(), Progress('auto')
    done = audit_data(source, out or Path('audit')/source.stem, overwrite, progress.counter('Auditing, eight steps a photograph'), names_in(classes) or None, network, tuple(names_in(columns)), boot, progress.say)
    print(headline(done))
    for row in done.findings.itertuples(): print(f'\n{row.severity.upper()}, {row.subject}: {row.finding}\n  {row.advice}')
    print(f'\nWritten: {done.folder/"audit.html"}')


def names_in(words): # list of str
    "The names between commas."
    return [name.strip() for name in (words or '').split(',') if name.strip()]


@app.command()
def review(
    source:Annotated[Path, typer.Argument(metavar='RUN', help='Folder of a finished run (with --folds, every photograph is reviewed), or a CSV of predictions of photographs that were not trained on.')],
    out:Annotated[Optional[Path], typer.Option(file_okay=False, metavar='FOLDER', help='Where to write; without it, the folder review beside the predictions.')] = None,
    second:Annotated[bool, typer.Option('--second-opinion/--no-second-opinion', help='Ask a simple classifier on ImageNet features and quality factors too (downloads 5 MB once).')] = True,
    shown:Annotated[int, typer.Option(min=1, help='Photographs on the page and on the contact sheet.')] = 60,
): # writes review.csv, review.html and contact_sheet.png
    "Which labels are doubtful? The photographs in the order in which a person should look at them again, and a CSV to correct."
    from fundus_nbdev.errors.label_issues import review as review_run
    from fundus_nbdev.training.run_folder import Progress
    progress = Progress('auto')
    done = review_run(source, out, second, shown, progress.say, progress.counter)
    print(done.verdict)
    print_rows(['rank', 'label', 'suggestion', 'p(label)', 'photograph'], [[row.rank, row.label, row.suggestion, f'{row.p_label:.2f}', Path(row.path).name] for row in done.order.head(10).itertuples()])
    print(f'Written: {done.folder/"review.html"}\nCorrect labels in {done.folder/"review.csv"} (column corrected), then: fundus run … --corrections {done.folder/"review.csv"}')


@app.command()
def recipes(): # prints a table
    "List the recipes that ship with the package."
    from fundus_nbdev.training.recipe import find_recipe, recipe_names
    for name in recipe_names(): print(f'{name:12} {find_recipe(name).about}')


def from_here(error): # bool
    "Is it an error of this package, whose message says how to mend it?"
    return type(error).__module__.split('.')[0] == 'fundus_nbdev'


def main(): # the command `fundus`
    "Run the command line; an error that the user can mend is printed without a traceback."
    try: app()
    except (ValueError, OSError) as error:
        if not from_here(error): raise
        sys.exit(f'fundus: {error}')


if __name__ == '__main__': main() # torchrun -m fundus_nbdev.cli
