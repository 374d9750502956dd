"The command line: reads words, calls the library, prints where the result is. Hand-written and thin; the work is done in the rooms."
from pathlib import Path
from typing import Annotated, Optional
import sys
import warnings

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode='markdown',
                  help='Is this photograph of the retina good enough to diagnose from? Train, evaluate and look at the mistakes.')


@app.callback()
def _commands(): pass # with this, one command alone keeps its name


@app.command()
def run(
    recipe:Annotated[str, typer.Argument(help='A shipped recipe (see `fundus recipes`) or the path of a TOML file.')] = '',
    data:Annotated[Optional[str], typer.Option(help='Folder with a folder per class, CSV or npz file with the photographs.')] = None,
    folds:Annotated[Optional[int], typer.Option(help='Cross-validation: each photograph is tested once.')] = None,
    seed:Annotated[Optional[int], typer.Option(help='Seed of split, weights and order.')] = None,
    epochs:Annotated[Optional[int], typer.Option(help='Times that every training photograph is seen.')] = None,
    size:Annotated[Optional[int], typer.Option(help='Side of the square that the network sees, px.')] = None,
    changes:Annotated[Optional[list[str]], typer.Option('--set', metavar='SETTING=VALUE', help='Any other setting of the recipe, e.g. `model.norm=group`; may be repeated.')] = None,
    out:Annotated[Optional[Path], typer.Option(help='The run folder; without it, a new one in runs/.')] = None,
    overwrite:Annotated[bool, typer.Option('--overwrite', help='Replace the run folder if it is there.')] = False,
    resume:Annotated[Optional[Path], typer.Option(help='Go on with the run in this folder, which was ended before its end; nothing else may be given.')] = None,
    last_good:Annotated[bool, typer.Option('--last-good', help='With --resume: pass over damaged checkpoints.')] = False,
): # writes a run folder
    "Train on photographs, evaluate, explain the mistakes, and write a report. Without a recipe: the embedded synthetic set."
    from fundus_nbdev.training.recipe import find_recipe, override
    asked = [value is not None for value in (data, folds, seed, epochs, size, out)] + [bool(recipe), bool(changes), overwrite]
    if resume and any(asked): raise typer.BadParameter('it goes on with the recipe in the folder: give no recipe and no other option.', param_hint='--resume')
    if last_good and not resume: raise typer.BadParameter('it belongs to --resume.', param_hint='--last-good')
    if resume: return go_on(resume, last_good)
    if data: data = str(Path(data).expanduser().absolute()) # so that the saved recipe works from any folder
    named = {'data.source': data, 'data.folds': folds, 'seed': seed, 'training.epochs': epochs, 'data.size': size}
    base = find_recipe(recipe or ('photographs' if data else 'synthetic'))
    chosen = override(override(base, changes or []), {name: value for name, value in named.items() if value is not None})
    follow(chosen, folder=out, overwrite=overwrite)


def go_on(folder, last_good): # writes into the run folder
    "Take up a run that was ended before its end."
    warnings.filterwarnings('ignore', category=FutureWarning)
    from fundus_nbdev.training.folder import unfinished_recipe
    follow(unfinished_recipe(folder), folder=folder, resume=True, last_good=last_good)


def follow(recipe, **options): # writes a run folder
    "Follow a recipe, in this process or, under torchrun, in several."
    warnings.filterwarnings('ignore', category=FutureWarning) # torch warns of its own jit when it is imported
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
def recipes(): # prints a table
    "List the recipes that ship with the package."
    from fundus_nbdev.training.recipe import find_recipe, recipe_names
    for name in recipe_names(): print(f'{name:12} {find_recipe(name).about}')


def main(): # the command `fundus`
    "Run the command line; an error that the user can mend is printed without a traceback."
    try: app()
    except (ValueError, OSError) as error:
        if type(error).__module__.split('.')[0] != 'fundus_nbdev': raise
        sys.exit(f'fundus: {error}')


if __name__ == '__main__': main() # torchrun -m fundus_nbdev.cli
