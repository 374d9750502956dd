"""What a class activation map costs: this library, pytorch-grad-cam, captum and torchcam beside a plain forward pass.

    python bench/explain.py           # half an hour; let nothing else run on the machine
    python bench/explain.py --quick   # some minutes, small pictures, few repeats: shows that it works, and no figure of it counts

All contenders of a case take turns in one process, each with its own copy of the network, in an order that moves on by one each repeat.
A ratio is taken within a repeat; what is reported is the median over repeats, and the quartiles. The time of a contender is that of the call,
from the photographs to the maps: objects that a user makes once (extractors, `explaining`) are made before. Loops over classes are the contender's:

* forward: the scores alone, in eval mode, without gradients. The unit.
* forward, channels last: the same of photographs that are put in this layout first, as ours does with eight or more where it needs no gradient. A peer's user could do that, too.
* grad_cam: one call with all classes, the layer named. With `layer=None` the layer is searched for in each call.
* explaining: the same in its `with` block: made once, as the objects of the peers are, and the one that the bars compare with them.
* captum, pytorch-grad-cam: a call for each class, since one call takes one class for each photograph.
* torchcam: one forward pass and a call for each class, the graph kept between them; maps as they come, not normalised. Its CAM needs no gradients.

Memory is counted, not sampled: the profiler lists every block that PyTorch's allocator hands out and takes back, and the greatest sum of live
blocks above the start of the call is the peak. The count is the same in each run, whatever the system does with freed pages. A process of its own
gives the resident peak beside it, which includes the libraries' working memory.

Each part is saved to bench/results/explain.json as soon as it is there."""
from contextlib import ExitStack
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
import argparse
import json
import os
import subprocess
import sys
import time
import warnings

import torch
import torchvision
from torch import nn

from fundus_nbdev.explain.gradcam import explaining, grad_cam

FILE = Path(__file__).parent/'results'/'explain.json'
FULL = dict(size=224, batches=(1, 16, 64), classes=(1, 3, 10, 1000), middle=16, memory=(16, 64), score_batch=2, repeats={1: 21, 2: 3, 16: 7, 64: 5}, calls={1: 3})
QUICK = dict(size=64, batches=(1, 4), classes=(1, 3, 10, 1000), middle=4, memory=(4,), score_batch=1, repeats={1: 3, 4: 3}, calls={1: 3})
LOOP = 'explaining' # made once, as the peers' objects are: what the bars are about
UNITS = ('forward', 'forward, channels last')
OURS = ('grad_cam', 'grad_cam, layer=None', LOOP)


# networks: (network, the layer explained)

def two_layer_head():
    model = torchvision.models.resnet18()
    model.fc = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1000))
    return model


NETWORKS = {
    'ResNet-18': (torchvision.models.resnet18, 'layer4'),
    'ResNet-18, two linear layers': (two_layer_head, 'layer4'),
    'MobileNetV3 small': (torchvision.models.mobilenet_v3_small, 'features'),
    'VGG-11, batch norm': (torchvision.models.vgg11_bn, 'features'),
}


def network(name): # in eval mode
    torch.manual_seed(0)
    return NETWORKS[name][0]().eval()


# contenders: (model, layer, method, stack for what must be closed) → call(x, classes)

def forward(model, layer, method, stack):
    def call(x, classes):
        with torch.no_grad(): return model(x)
    return call


def channels_last(model, layer, method, stack):
    plain = forward(model, layer, method, stack)
    return lambda x, classes: plain(x.contiguous(memory_format=torch.channels_last), classes)


def named(model, layer, method, stack): return lambda x, classes: grad_cam(model, x, layer, classes, method)


def searched(model, layer, method, stack): return lambda x, classes: grad_cam(model, x, None, classes, method)


def in_context(model, layer, method, stack):
    explain = stack.enter_context(explaining(model, layer, method))
    return lambda x, classes: explain(x, classes)


def captum(model, layer, method, stack):
    from captum.attr import LayerGradCam
    cam = LayerGradCam(model, model.get_submodule(layer))
    return lambda x, classes: torch.cat([cam.attribute(x, c, relu_attributions=True) for c in classes], 1)


def pytorch_grad_cam(model, layer, method, stack):
    import pytorch_grad_cam as peer
    import tqdm
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    tqdm.tqdm = lambda items, **kwargs: items # Score-CAM's progress bar
    names = {'gradcam': 'GradCAM', 'gradcam++': 'GradCAMPlusPlus', 'hirescam': 'HiResCAM', 'layercam': 'LayerCAM', 'xgradcam': 'XGradCAM', 'eigencam': 'EigenCAM', 'scorecam': 'ScoreCAM'}
    cam = stack.enter_context(getattr(peer, names[method])(model, [model.get_submodule(layer)]))
    return lambda x, classes: [cam(x, [ClassifierOutputTarget(c)] * len(x)) for c in classes]


def torchcam(model, layer, method, stack):
    import torchcam.methods as peer
    names = {'gradcam': 'GradCAM', 'gradcam++': 'GradCAMpp', 'layercam': 'LayerCAM', 'xgradcam': 'XGradCAM'}
    cam = stack.enter_context(getattr(peer, names[method])(model, layer))
    def call(x, classes):
        scores = model(x)
        return [cam(c, scores, normalized=False, retain_graph=c != classes[-1])[0] for c in classes]
    return call


def torchcam_without_gradients(model, layer, method, stack):
    import torchcam.methods as peer
    cam = stack.enter_context(peer.ScoreCAM(model, layer) if method == 'scorecam' else peer.CAM(model, layer, 'fc'))
    def call(x, classes):
        with torch.no_grad(): model(x)
        return [cam(c, normalized=False)[0] for c in classes]
    return call


CONTENDERS = {'forward': forward, 'forward, channels last': channels_last, 'grad_cam': named, 'grad_cam, layer=None': searched, 'explaining': in_context, 'captum': captum, 'pytorch-grad-cam': pytorch_grad_cam,
              'torchcam': torchcam, 'torchcam CAM': torchcam_without_gradients, 'torchcam Score-CAM': torchcam_without_gradients}


# measuring

def seconds(call, x, classes, calls): # one measurement
    start = time.perf_counter()
    for _ in range(calls): call(x, classes)
    return (time.perf_counter() - start) / calls


def spread(values): # dict
    "Median and quartiles."
    low, middle, high = quantiles(values, n=4, method='inclusive') if len(values) > 1 else values * 3
    return dict(low=round(low, 6), median=round(middle, 6), high=round(high, 6))


def measure(plan, contenders, name='ResNet-18', method='gradcam', batch=16, n_classes=1): # dict
    "One case: interleaved repeats of all contenders, their seconds and the ratios within each repeat."
    layer, classes, calls = NETWORKS[name][1], list(range(n_classes)), plan['calls'].get(batch, 1)
    x = torch.randn(batch, 3, plan['size'], plan['size'], generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        model = network(name)
        ready = {c: CONTENDERS[c](deepcopy(model), layer, method, stack) for c in contenders}
        for call in [*ready.values()] * (2 if batch == 1 else 1): call(x, classes[:1]) # warm
        took = {c: [] for c in contenders}
        for repeat in range(plan['repeats'][batch]):
            turn = repeat % len(ready)
            for c in (contenders[turn:] + contenders[:turn]): took[c].append(seconds(ready[c], x, classes, calls))
    against = lambda other: {c: spread([a / b for a, b in zip(took[c], took[other])]) for c in contenders if c != other}
    peers = [c for c in contenders if c not in UNITS + OURS]
    fastest = min(peers, key=lambda c: median(took[c])) if peers else None
    case = dict(network=name, method=method, batch=batch, classes=n_classes, repeats=plan['repeats'][batch], seconds={c: spread(took[c]) for c in contenders}, to_forward=against('forward'),
                faster_than={p: spread([a / b for a, b in zip(took[p], took[LOOP])]) for p in peers}, fastest_peer=fastest,
                to_fastest_peer={c: spread([a / b for a, b in zip(took[c], took[fastest])]) for c in contenders if c in OURS} if fastest else {})
    say(f'{name}, {method}, {batch} × {n_classes} classes: ' + ', '.join(f'{c} {case["to_forward"][c]["median"]:.2f}' for c in contenders[1:]) + f' (forward {1000 * median(took["forward"]) / batch:.1f} ms a photo)')
    return case


def classes_part(plan): # cases
    "Grad-CAM of ResNet-18's last stage; 1,000 classes only for those that do not loop."
    peers = ['captum', 'pytorch-grad-cam', 'torchcam', 'torchcam CAM']
    return [measure(plan, [*UNITS, *OURS, *(peers if n < 1000 else [])], batch=batch, n_classes=n) for batch in plan['batches'] for n in plan['classes']]


def heads_part(plan):
    "One class, the last stage, heads of more than pooling and one linear layer."
    everyone = ['forward', *OURS, 'captum', 'pytorch-grad-cam', 'torchcam']
    return [measure(plan, everyone, name, batch=batch) for name in list(NETWORKS)[1:] for batch in plan['batches']]


def methods_part(plan):
    "The other methods with one class; torchcam where it has them."
    peers = {'gradcam++': ['pytorch-grad-cam', 'torchcam'], 'hirescam': ['pytorch-grad-cam'], 'layercam': ['pytorch-grad-cam', 'torchcam'], 'xgradcam': ['pytorch-grad-cam', 'torchcam'], 'eigencam': ['pytorch-grad-cam']}
    return [measure(plan, ['forward', LOOP, *others], method=method, batch=plan['middle']) for method, others in peers.items()]


def score_part(plan):
    "Score-CAM: a forward pass for each of the 512 maps of each photograph."
    return [measure(plan, ['forward', LOOP, 'pytorch-grad-cam', 'torchcam Score-CAM'], method='scorecam', batch=plan['score_batch'])]


# memory

def counted_peak(call): # bytes above the start of the call
    "The greatest sum of live blocks of PyTorch's allocator during a call."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile: kept = call()
    blocks = sorted((e.start_ns(), e.nbytes()) for e in profile.profiler.kineto_results.events() if e.name() == '[memory]')
    live = peak = 0
    for _, size in blocks:
        live += size
        peak = max(peak, live)
    return peak


def resident_peak(call): # MB above the start of the call; None where the system has no such count
    "How far the process's resident memory rises during a call."
    def status(key): return next(int(line.split()[1]) for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key)) / 1024
    try: Path('/proc/self/clear_refs').write_text('5') # the high-water mark begins anew
    except OSError: return None
    before = status('VmRSS')
    kept = call()
    return round(status('VmHWM') - before, 1)


def memory_of(name, contender, batch, size): # prints one line of JSON
    "The memory of one contender's call for one class, in this process: the resident peak first, the count in a second call."
    model, layer = network(name), NETWORKS[name][1]
    x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        call = CONTENDERS[contender](model, layer, 'gradcam', stack)
        call(x[:1], [0])
        resident = resident_peak(lambda: call(x, [0]))
        print(json.dumps(dict(network=name, batch=batch, contender=contender, counted_mb=round(counted_peak(lambda: call(x, [0])) / 2**20, 2), resident_mb=resident)))


def memory_part(plan):
    "Each contender in a process of its own; without VGG, of which a peer keeps 17 GB for 64 photographs."
    cases = []
    for name in list(NETWORKS)[:3]:
        for batch in plan['memory']:
            for contender in ('forward', 'grad_cam', 'captum', 'pytorch-grad-cam', 'torchcam'):
                words = [sys.executable, '-W', 'ignore', __file__, '--memory', name, contender, str(batch), str(plan['size'])]
                done = subprocess.run(words, capture_output=True, text=True)
                if done.returncode: sys.exit(f'{" ".join(words)}\n{done.stderr}')
                cases.append(json.loads(done.stdout.splitlines()[-1]))
                say(*cases[-1].values())
    return cases


# the bars

def bars(parts): # list of dicts
    "What was asked for, the worst value and where: of `explaining`, in a loop as the peers' objects are; memory of one call of `grad_cam`."
    classes, heads = parts.get('classes', []), parts.get('heads', [])
    resnet = [case for case in heads if case['network'].startswith('ResNet-18')]
    timed = [case for part in ('classes', 'heads', 'methods', 'scorecam') for case in parts.get(part, [])]
    where = lambda case: f'{case["network"]}, {case["method"]}, batch of {case["batch"]}, classes: {case["classes"]}'
    ratio = lambda key, who, cases: [(case[key][who]['median'], where(case)) for case in cases if who in case[key]]
    forward = {(case['network'], case['batch']): case['counted_mb'] for case in parts.get('memory', []) if case['contender'] == 'forward'}
    memory = [(case['counted_mb'] / forward[case['network'], case['batch']], f'{case["network"]}, batch of {case["batch"]}') for case in parts.get('memory', []) if case['contender'] == 'grad_cam']
    found = [('all classes, pooling and one linear layer: times a forward pass', 'at most', 1.1, ratio('to_forward', LOOP, classes)),
             ('one class, ResNet-18 with another head, last stage: times a forward pass', 'at most', 1.2, ratio('to_forward', LOOP, resnet)),
             ('one class, other networks, last stage: times a forward pass', 'at most', 1.2, ratio('to_forward', LOOP, [case for case in heads if case not in resnet])),
             ('one class: times faster than pytorch-grad-cam', 'at least', 2.8, ratio('faster_than', 'pytorch-grad-cam', [case for case in classes if case['classes'] == 1])),
             ('three classes: times faster than pytorch-grad-cam', 'at least', 8.5, ratio('faster_than', 'pytorch-grad-cam', [case for case in classes if case['classes'] == 3])),
             ('anywhere: times the fastest peer', 'at most', 1.05, ratio('to_fastest_peer', LOOP, timed)),
             ('peak memory, one class, last stage: times a forward pass', 'at most', 1.2, memory)]
    return [bar(*one) for one in found if one[-1]]


def bar(what, kind, limit, values): # dict
    worst, where = (max if kind == 'at most' else min)(values)
    return dict(bar=what, kind=kind, limit=limit, worst=round(worst, 3), where=where, met=worst <= limit if kind == 'at most' else worst >= limit,
                missed=[dict(value=round(v, 3), where=w) for v, w in values if (v > limit if kind == 'at most' else v < limit)])


# running

def say(*words): print(time.strftime('%H:%M:%S'), *words, flush=True)


def machine(): # dict
    "What it ran on, and with which versions."
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
    processor = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), 'unknown')
    packages = ('torch', 'torchvision', 'captum', 'grad-cam', 'torchcam')
    return dict(processor=processor, cores=os.cpu_count(), threads=torch.get_num_threads(), versions={'python': sys.version.split()[0]} | {p: version(p) for p in packages})


def save(result):
    "One line for each case, so that a difference between two runs can be read."
    FILE.parent.mkdir(exist_ok=True)
    lines = lambda items: '[\n' + ',\n'.join('   ' + json.dumps(item) for item in items) + '\n  ]' # one case, one line
    parts = ',\n'.join(f'  "{name}": {lines(cases)}' for name, cases in result['parts'].items())
    rest = ''.join(f' {json.dumps(key)}: {json.dumps(value)},\n' for key, value in result.items() if key not in ('parts', 'bars'))
    FILE.write_text(f'{{\n{rest} "bars": {lines(result["bars"])},\n "parts": {{\n{parts}\n }}\n}}\n')


PARTS = {'classes': classes_part, 'heads': heads_part, 'methods': methods_part, 'scorecam': score_part, 'memory': memory_part}


def main(quick, only):
    plan = QUICK if quick else FULL
    saved = json.loads(FILE.read_text()) if only and FILE.exists() else {}
    if saved and saved['quick'] != quick: sys.exit(f'{FILE.name} holds {"quick" if saved["quick"] else "full"} figures; parts of both kinds do not go into one file')
    result = dict(quick=quick, size=plan['size'], **machine(), parts=saved.get('parts', {}))
    for name, part in PARTS.items():
        if only and name not in only: continue
        say(name)
        result['parts'][name] = part(plan)
        result['bars'] = bars(result['parts'])
        save(result)
    for one in result['bars']: print('met   ' if one['met'] else 'MISSED', f'{one["bar"]}: {one["worst"]} ({one["kind"]} {one["limit"]}; {one["where"]})', *(f'\n         {m["value"]}: {m["where"]}' for m in one['missed']))


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    if sys.argv[1:2] == ['--memory']: memory_of(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:6])); sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='small pictures and few repeats')
    parser.add_argument('--only', nargs='+', choices=PARTS, help='measure these parts anew, keep the others')
    main(**vars(parser.parse_args()))
