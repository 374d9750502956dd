"Five things are added, one definition each (newcomer.py), and appear everywhere with no other change."
from pathlib import Path
import json
import subprocess
import sys
import tomllib

import pandas as pd
import pytest

from commands import folder_of, in_shell, several_in_shell

MINE = Path(__file__).with_name('newcomer.py')
ASKED = ['--set', 'model.name=grid', '--set', 'model.width=4', '--set', 'training.monitor=mean_margin', '--set', 'data.degrade=fog',
         '--epochs', '1', '--size', '64', '--set', 'training.bs=4', '--cam', 'energy', '--n-examples', '2']


@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('extended')


@pytest.fixture(scope='module')
def folder(place, photos): # of a run that uses all five
    ran = in_shell(place, '--extend', MINE, 'run', '--data', photos, *ASKED)
    assert ran.returncode == 0, ran.stderr
    return folder_of(ran.stdout, place)


def test_a_network_is_in_recipe_and_bundle(folder):
    model = tomllib.loads((folder/'recipe.toml').read_text())['model']
    assert model == {'name': 'grid', 'freeze': 'none', 'freeze_norm': True, 'width': 4, 'bias': True} # its own arguments, complete
    bundle = json.loads((folder/'bundle'/'bundle.json').read_text())
    assert bundle['architecture'] == 'grid' and bundle['arguments'] == {'width': 4, 'bias': True, 'n_classes': 2}
    assert 'grid' in (folder/'report.html').read_text()


def test_a_metric_is_in_log_table_and_report(folder):
    assert 'mean_margin' in pd.read_csv(folder/'history.csv')
    row = pd.read_csv(folder/'metrics.csv', index_col=0).loc['mean_margin']
    assert -1 <= row.low <= row.value <= row.high <= 1
    assert 'mean margin' in (folder/'report.html').read_text()


def test_a_degradation_is_in_the_recipe(folder):
    assert tomllib.loads((folder/'recipe.toml').read_text())['data']['degrade'] == ['fog']
    assert 'fog' in (folder/'report.html').read_text()


def test_a_kind_of_map_is_in_the_report(folder): assert 'energy' in (folder/'report.html').read_text()


def test_a_section_is_in_the_report(folder):
    assert pd.read_csv(folder/'sizes.csv').photographs.sum() > 0
    page = (folder/'report.html').read_text()
    assert 'How many of each' in page and 'photographs are Good.' in page


@pytest.mark.slow
def test_the_command_line_compares_by_a_metric(place, folder):
    other = folder/'other.csv'
    other.write_text((folder/'predictions.csv').read_text())
    ran = in_shell(place, '--extend', MINE, 'evaluate', folder/'predictions.csv', other, '--metric', 'mean_margin', '--n-boot', '100')
    assert ran.returncode == 0 and 'mean_margin of a' in ran.stdout, ran.stderr


def refusals(place, words, expected): # setting → what is said of it
    ran = several_in_shell(place, *[[*words, '--set', setting] for setting in expected])
    for heard, said in zip(ran, expected.values(), strict=True): assert said in heard, heard


@pytest.mark.slow
def test_nothing_of_it_is_known_without_the_file(place, photos):
    refusals(place, ['run', '--data', photos], {
        'model.name=grid': "network 'grid' is not known", 'data.degrade=fog': "expected one of 'defocus'",
        'training.monitor=mean_margin': "expected one of 'accuracy'"})


@pytest.mark.slow
def test_arguments_are_checked_against_the_signature(place, photos):
    refusals(place, ['--extend', MINE, 'run', '--data', photos, '--set', 'model.name=grid'], {
        'model.widht=4': 'did you mean model.width?', 'model.width=65': 'a whole number from 1 to 64',
        'model.depth=18': 'no setting model.depth'})


def test_a_bundle_says_what_it_lacks(folder):
    code = f'from fundus_nbdev.models.bundle import load_bundle\ntry: load_bundle({str(folder/"bundle")!r})\nexcept ValueError as error: print(error)'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout
    assert 'grid' in said and 'resnet' in said
