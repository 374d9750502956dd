"Looking at data: no claims where there is nothing, what is planted is found, and a report that needs no network."
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from fundus_nbdev.photos.factors import FACTORS
from fundus_nbdev.synth.degradations import degrade
from fundus_nbdev.synth.retina import draw_retina
from fundus_nbdev.core.errors import RunError
from fundus_nbdev.audit.decision_tree import ask_tree, describe_tree, grow_tree, path_to, tree_nodes
from fundus_nbdev.audit.differences import describe_pair, separate_classes
from fundus_nbdev.audit.eda import look_at_data
from fundus_nbdev.audit.univariate import clear
from fundus_nbdev.cli import app
from fundus_nbdev.data.table import read_table

DRAWS = 40


def numbers_and_table(seed, planted=0., n_patients=60, classes=('Good', 'Bad')):
    "Two photographs a patient, eleven numbers of which neighbours go together; the last class differs in one of them by so many standard deviations."
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_patients), 2)
    base = rng.normal(size=(n_patients, 11))[person] + rng.normal(size=(len(person), 11))
    numbers = pd.DataFrame(base + .8 * np.roll(base, 1, axis=1), columns=list(FACTORS))
    labels = rng.permutation(np.resize(classes, n_patients))[person]
    numbers['haze'] += planted * numbers['haze'].std() * (labels == classes[-1])
    return numbers, pd.DataFrame(dict(path=[f'{i}.jpg' for i in range(len(person))], label=labels, patient=person.astype(str)))


def claims(seed, planted=0., n_boot=200, **given):
    numbers, table = numbers_and_table(seed, planted, **given)
    tree = ask_tree(numbers, table, n_boot)
    found = set(clear(separate_classes(numbers, table, n_boot)).name)
    return found | {'tree'} if tree and tree.useful else found


@pytest.mark.slow
def test_no_claims_on_random_labels():
    assert sum(bool(claims(seed)) for seed in range(DRAWS)) <= .05 * DRAWS


@pytest.mark.slow
def test_no_claims_on_three_random_classes():
    "Over two hundred sets, so that chance doesn't decide whether five in a hundred are kept."
    assert sum(bool(claims(seed, classes=('Good', 'Usable', 'Reject'))) for seed in range(200)) <= 10


def test_a_planted_difference_is_found_and_named():
    found = [claims(100 + seed, 1.5) for seed in range(10)]
    assert all('haze' in names for names in found)
    assert sum(bool(names - {'haze', 'over_exposed', 'under_exposed', 'noise', 'tree'}) for names in found) <= 1 # neighbours may follow, strangers may not


def test_words_follow_the_numbers():
    numbers, table = numbers_and_table(3, 2.)
    separation = separate_classes(numbers, table, 200)
    said = ' '.join(describe_pair(separation, ('Good', 'Bad'), numbers, table.label))
    assert said.startswith('Bad photographs stand out by haze') and 'higher in the Bad one' in said
    turned = numbers.assign(haze=-numbers.haze)
    assert 'by little haze' in ' '.join(describe_pair(separate_classes(turned, table, 200), ('Good', 'Bad'), turned, table.label))
    assert 'None of the 11' in ' '.join(describe_pair(separate_classes(*numbers_and_table(0), 200), ('Good', 'Bad'), *[frame if i == 0 else frame.label for i, frame in enumerate(numbers_and_table(0))]))
    assert describe_tree(None)[0].startswith('Whether they tell more together')


def few_patients(table, label): # one patient in all of a class
    return table.assign(patient=table.patient.where(table.label != label, 'one'))


NOTHING = { # (numbers, table, n_boot) → what is said of it; the classes differ by five standard deviations in haze
    'no resamples': (lambda numbers, table: (numbers, table), 0, 'no resamples were drawn (--n-boot)'),
    'one patient': (lambda numbers, table: (numbers, table.assign(patient='one')), 200, 'there are too few patients'),
    'a class of one patient': (lambda numbers, table: (numbers, few_patients(table, 'Bad')), 200, 'there are too few patients'),
    'two photographs': (lambda numbers, table: tuple(frame.groupby(table.label).head(1).reset_index(drop=True) for frame in (numbers, table)), 200, 'there are too few patients'),
    'nothing measured': (lambda numbers, table: (numbers * np.nan, table), 200, 'it was not measured in both classes'),
}


@pytest.mark.parametrize('change, n_boot, why', NOTHING.values(), ids=NOTHING)
def test_no_evidence_is_no_evidence_of_nothing(change, n_boot, why):
    numbers, table = change(*numbers_and_table(0, 5., n_patients=20))
    separation, tree = separate_classes(numbers, table, n_boot), ask_tree(numbers, table, n_boot)
    said = describe_pair(separation, ('Good', 'Bad'), numbers, table.label)
    assert said[0].startswith(f"Whether any of the 11 numbers tells Bad from Good can't be judged, because {why}"), said
    assert bool(re.search(r'; the strongest hint is [\w ]+ \(AUC 1\.00\)', said[0])) == numbers.notna().any(axis=None)
    assert not re.search(r'\bnan\b', ' '.join([*said, *describe_tree(tree)])) and describe_tree(tree)[0].startswith('Whether they tell more together')


def test_equal_numbers_are_judged():
    numbers, table = numbers_and_table(0)
    said = describe_pair(separate_classes(numbers * 0, table, 200), ('Good', 'Bad'), numbers * 0, table.label)
    assert said == ['None of the 11 numbers measured tells Bad from Good clearly.'] # no hint either


def test_an_open_question_is_no_answer():
    "A tree whose interval reaches from chance to something useful is not called useless."
    numbers, table = numbers_and_table(5, 1., n_patients=20)
    tree = ask_tree(numbers, table, 200)
    row = tree.scores.loc['balanced_accuracy']
    assert row.low <= .6 < row.high and 'is open' in describe_tree(tree)[0], describe_tree(tree)


@pytest.mark.parametrize('seed', range(6))
def test_every_photograph_follows_its_rule(seed):
    "The drawn tree answers as the grown one: who fits the words of a leaf arrives there."
    numbers, table = numbers_and_table(seed, 2., classes=('Good', 'Usable', 'Reject'))
    nodes = tree_nodes(grow_tree(numbers, table), numbers, table)
    counts = [f'n_{name}' for name in ('Good', 'Usable', 'Reject')]
    assert nodes[nodes.factor == ''][counts].to_numpy().sum() == len(table)

    def arrives(row, i=0): return i if not nodes.factor[i] else arrives(row, nodes.yes[i] if row[nodes.factor[i]] <= nodes.threshold[i] else nodes.no[i])
    at = numbers.apply(arrives, axis=1)
    for leaf in nodes.index[nodes.factor == '']:
        assert nodes.loc[leaf, counts].sum() == (at == leaf).sum()
        assert path_to(nodes, leaf) or len(nodes) == 1


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('set')
    for k in range(6):
        for label in ('Good', 'Bad <b>'):
            photo = draw_retina(k, 100, 'left', 'round')
            rgb = photo.rgb if label == 'Good' else degrade(photo.rgb, 'defocus', .7, fov=photo.fov).rgb
            file = folder/label/f'{k}.jpg'
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(rgb).save(file)
    (folder/'Good'/'broken.jpg').write_bytes(b'\xff\xd8\xff\xe0 cut')
    return folder


def test_a_report_without_network_and_without_markup_of_others(photographs, tmp_path):
    eda = look_at_data(photographs, tmp_path/'out', n_boot=100, examples=2)
    html = (tmp_path/'out'/'eda.html').read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', html) and 'http' not in html and '<script' not in html
    assert '<b>Bad <b>' not in html and 'Bad &lt;b&gt;' in html
    assert 'broken.jpg' in html and list(eda.unreadable) == [str(photographs/'Good'/'broken.jpg')]
    assert (tmp_path/'out'/'figures'/'mean_Bad_b.png').stat().st_size
    assert not list(tmp_path.rglob('.unfinished*'))


CASES = { # photographs → n_boot, words of the terminal and the page
    'no resamples': (lambda table: table, 0, "Whether anything tells these classes apart can't be judged, because no resamples were drawn"),
    'one patient': (lambda table: table.assign(patient='1'), 100, "can't be judged, because there are too few patients"),
    'a photograph of each class': (lambda table: table.groupby('label').head(1), 100, "can't be judged, because there are too few patients"),
    'one class': (lambda table: table[table.label == 'Good'], 100, 'One class only, Good: there is nothing to tell apart.'),
    'nothing can be read': (lambda table: table.assign(path=['broken.jpg', *table.path.iloc[1:].str.replace('.jpg', '.gone')]), 100, "can't be judged, because it was not measured in both classes"),
}


@pytest.mark.parametrize('choose, n_boot, said', CASES.values(), ids=CASES)
def test_what_cannot_be_judged_is_not_denied(photographs, tmp_path, choose, n_boot, said):
    table = read_table(photographs)
    choose(table[~table.path.str.contains('broken')]).to_csv(tmp_path/'photos.csv', index=False)
    ran = CliRunner().invoke(app, ['eda', str(tmp_path/'photos.csv'), '--out', str(tmp_path/'out'), '--n-boot', str(n_boot), '--n-examples', '1'])
    assert ran.exit_code == 0, ran.output
    printed, html = ran.output, (tmp_path/'out'/'eda.html').read_text(encoding='utf-8')
    assert said in printed and said.replace("'", '&#39;') in html
    text = re.sub(r'base64,[\w+/=]+', '', html)
    assert not re.search(r'\bnan\b', printed + text, re.I) and 'Nothing that was measured' not in printed


@pytest.mark.slow
def test_a_killed_job_goes_on(photographs, tmp_path):
    "What was measured is not measured again; without eda.html the folder isn't finished, so nothing is refused."
    first = look_at_data(photographs, tmp_path, n_boot=0, examples=1)
    (tmp_path/'eda.html').unlink()
    seen = []
    second = look_at_data(photographs, tmp_path, n_boot=0, examples=1, progress=lambda done, n: seen.append(done))
    assert seen[0] == 13 # all but the broken one were there
    pd.testing.assert_frame_equal(first.values, second.values)
    with pytest.raises(RunError, match='overwrite'): look_at_data(photographs, tmp_path)


def test_the_same_photographs_the_same_sums(photographs):
    first, second = (look_at_data(photographs, n_boot=0, examples=1) for _ in range(2))
    for name in first.sums:
        assert (first.sums[name].total == second.sums[name].total).all() and (first.sums[name].levels == second.sums[name].levels).all()
    assert [list(photos) for photos in first.sample.values()] == [list(photos) for photos in second.sample.values()]
