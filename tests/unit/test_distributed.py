"""Ranks that share an iteration: the same model, whatever their number (gloo, CPU)."""

import inspect
import json
import multiprocessing.spawn
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer

from hetero_brain import DomainBatch, HeteroBrain, domain_loader
from hetero_brain.data.datasets import GlobalBatches
from hetero_brain.data.plan import Plan
from hetero_brain.domain_batch import Share
from hetero_brain.models.transfer import find_checkpoint
from hetero_brain.pipelines.recipe import run
from hetero_brain.training import gram, parallel
from hetero_brain.training.checkpoints import AtomicCheckpointer
from hetero_brain.training.monitor import DomainMonitor
from hetero_brain.training.parallel import share_out
from hetero_brain.training.preemption import Leaving
from tests.benchmarks.ranks import on_ranks, simulated_idle
from tests.processes import python
from tests.unit.test_domain_loader import dynamic, epochs, speech, train

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "recipes/VoicePrompts/sample"


def torchrun(n_ranks, *words, check=True):
    """Run a script on some ranks of this machine; return the finished process."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(n_ranks)]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python(), *launch, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stdout[-4000:]
    return done


# A model in float64 and four domains, one of which is once not finite; prints what each
# rank sees of an iteration. VARIANTS holds the settings of each variant.
SCRIPT = """
import json, sys
from functools import partial
import torch
import speechbrain as sb
from hetero_brain import DomainBatch, HeteroBrain, domain_loader
from hetero_brain.domain_batch import Share
from hetero_brain.pipelines.recipe_run import recipe_brain
from hetero_brain.training.parallel import gathered, rank_and_size

out, variants = sys.argv[1], json.loads(sys.argv[2])
options = ["x.yaml", "--device", "cpu", "--distributed_backend", "gloo"]
_, run_opts, _ = sb.parse_arguments(options)
sb.utils.distributed.ddp_init_group(run_opts)
rank, size = rank_and_size()

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(3, 4)
        self.heads = torch.nn.ModuleDict(
            {d: torch.nn.Linear(4, 1) for d in "abcd"}  # a gradient on one rank only
        )

class Brain(HeteroBrain):
    def compute_forward(self, batch, stage):
        domain, x = batch
        hidden = torch.tanh(self.modules.net.body(x))
        return self.modules.net.heads[domain](hidden)
    def compute_objectives(self, predictions, batch, stage):
        return (predictions - 1).square().mean()

def trained(variant):
    torch.manual_seed(rank)  # all ranks get θ of rank 0
    net = Net().double()
    if size == 1:
        torch.manual_seed(0)
        net = Net().double()
    # Column-major: fused optimizers walk through memory, others through elements.
    weight = net.body.weight
    weight.data = weight.data.T.contiguous().T
    local = getattr(torch.optim, variant.get("local", "SGD"))
    brain = recipe_brain(Brain)(
        {"net": net},
        partial(torch.optim.AdamW, lr=0.05, fused=variant.get("fused", False)),
        {"local_steps": 2, "local_optimizer": partial(local, lr=0.1), "solve_seed": 3,
         "local_optimizer_state": variant.get("state", "fresh"),
         "domain_weights": variant.get("weights"), "log_interval": 2,
         "cosine_interval": 2, "angle_interval": 2},
        run_opts,
    )
    brain.on_fit_start()
    brain.modules.train()
    losses, entries = [], []
    brain.log = lambda **stats: entries.append(stats["train_stats"])
    for t in range(4):
        share = [] if variant.get("lists") else Share("abcd")
        for i, domain in enumerate("abcd"):
            rng = torch.Generator().manual_seed(9 * t + i)
            x = torch.randn(5, 3, generator=rng).double()
            if (t, domain) == (1, "c"):
                x *= float("nan")
            if i % size == rank:
                share.append(DomainBatch(domain, ((domain, x),)))
        losses.append(brain.fit_batch(share).item())
    state = {k: v.tolist() for k, v in net.state_dict().items()}
    same = gathered(state)
    assert all(other == state for other in same)
    return {"state": state, "losses": losses, "entries": entries}

found = {name: trained(variant) for name, variant in variants.items()}
if rank == 0:
    json.dump(found, open(out, "w"))
torch.distributed.destroy_process_group()
"""

VARIANTS = {
    "plain": {},
    "weights": {"weights": {"a": 1, "b": 2, "c": 3, "d": 0.5}, "fused": True},
    "per_domain": {"local": "AdamW", "state": "per_domain"},
    "lists": {"lists": True, "weights": {"a": 1, "b": 2, "c": 3, "d": 0.5}},
}
PLAIN = json.dumps({"plain": VARIANTS["plain"]})


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "script.py"
    path.write_text(SCRIPT)
    return path


def flat(value):
    """All numbers of nested lists and dicts, in order of keys."""
    if isinstance(value, dict):
        return [x for key in sorted(value) for x in flat(value[key])]
    return [x for v in value for x in flat(v)] if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def on_ranks_of(script, tmp_path_factory):
    """Number of ranks → variant → what was trained."""
    found, folder = {}, tmp_path_factory.mktemp("variants")
    for size in (1, 2, 4):
        torchrun(size, script, folder / f"{size}.json", json.dumps(VARIANTS))
        found[size] = json.loads((folder / f"{size}.json").read_text())
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_is_the_same_on_1_2_and_4_ranks(variant, on_ranks_of):
    found = {size: of_variants[variant] for size, of_variants in on_ranks_of.items()}
    for size in (2, 4):
        for key in ("state", "losses", "entries"):
            ours, reference = flat(found[size][key]), flat(found[1][key])
            # Logs and losses are in single precision.
            exact = {"rtol": 1e-10, "atol": 1e-12} if key == "state" else {"rtol": 1e-6}
            np.testing.assert_allclose(ours, reference, **exact)
        assert [e.keys() for e in found[size]["entries"]] == [
            e.keys() for e in found[1]["entries"]
        ]
    entries = {k: v for e in found[2]["entries"] for k, v in e.items()}
    assert entries.keys() >= {"loss_at_phi/d", "cosine/a~d", "hypergradient_norm/a"}
    assert entries.keys() >= {"update_angle", "update_angle/b", "step_ratio"}
    assert any(e.get("dropped/c") == 1 for e in found[4]["entries"])


@pytest.fixture
def group(tmp_path):
    """A group of one rank, which the test may leave."""
    meeting = {"init_method": f"file://{tmp_path}/ranks", "rank": 0, "world_size": 1}
    torch.distributed.init_process_group("gloo", **meeting)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "end, parts",
    [(None, True), (Leaving(True), True), (Leaving(False), False), (OSError(), False)],
)
def test_a_run_parts_from_the_other_ranks_if_all_are_done(
    end, parts, group, monkeypatch
):
    given = []

    def main(argv):
        given.append(argv)
        if end is not None:
            raise end

    monkeypatch.setattr(sys, "argv", ["train.py", "a.yaml"])
    with nullcontext() if end is None else pytest.raises(type(end)):
        run(main)
    assert given == [["a.yaml"]]
    assert torch.distributed.is_initialized() != parts


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_no_thread_of_the_group_is_left_behind_a_run(tmp_path):
    """Otherwise the process may abort when it ends (SIGABRT)."""
    script = f"""
import time
from importlib import import_module
from pathlib import Path
import torch
from hetero_brain.pipelines.recipe import run

def threads():
    return [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]

def main(argv):
    place = "file://{tmp_path}/ranks"
    torch.distributed.init_process_group("gloo", place, rank=0, world_size=1)
    import_module("torch.distributed.nn")  # as torch._dynamo does
    while not any("gloo" in name for name in threads()):  # a thread names itself
        time.sleep(0.01)

run(main)
print([name for name in threads() if "gloo" in name])
"""
    done = subprocess.run(
        [python(), "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


RECIPE = ROOT / "recipes/VoicePrompts"
SMALL = "--size mini --max_utterance_seconds 0.6 --global_batch_seconds 12 "
SMALL += "--codebook_size 16 --cssl_epochs 1 --ptloc_epochs 1 "
SMALL += "--only_phases [CSSL.1,PTLOC.1]"
RUN = "--device cpu"


def pretrain(n_ranks, folder, *more):
    torchrun(
        n_ranks,
        RECIPE / "pretrain/train.py",
        RECIPE / "pretrain/hparams/bestrq.yaml",
        *f"--data_folder {SAMPLE} {SMALL} {RUN} --output_folder {folder}".split(),
        *more,
    )
    tensors = {}
    for phase in ("CSSL.1", "PTLOC.1"):
        (checkpoint,) = sorted((folder / phase / "save").glob("CKPT*"))[-1:]
        encoder = torch.load(checkpoint / "encoder.ckpt", weights_only=True)
        tensors |= {f"{phase}/{k}": v for k, v in encoder.items()}
    return tensors


def test_a_recipe_on_two_ranks_is_that_on_one(tmp_path):
    """Pre-training by CSSL and PTLOC, then fine-tuning, by torchrun."""
    one, two = (pretrain(n, tmp_path / str(n)) for n in (1, 2))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-4, msg=key)
    logs = []
    for n in (1, 2):
        text = (tmp_path / str(n) / "PTLOC.1/log.jsonl").read_text()
        logs.append([json.loads(line) for line in text.splitlines()])
    assert [e["iteration"] for e in logs[0]] == [e["iteration"] for e in logs[1]]
    dev = [flat(log[-1]["valid"]) for log in logs]
    np.testing.assert_allclose(dev[0], dev[1], rtol=1e-3)
    results, encoders = [], []
    for n in (1, 2):
        out = tmp_path / f"ctc{n}"
        torchrun(
            n,
            RECIPE / "finetune/train.py",
            RECIPE / "finetune/hparams/ctc.yaml",
            *f"--data_folder {SAMPLE} {RUN} --output_folder {out} --epochs 1".split(),
            *"--global_batch_seconds 60 --finetune_domains [en,fr]".split(),
            *"--size mini --freeze_encoder_iterations 1 --dropout 0.0".split(),
            *"--speed_changes [90,110] --encoder_lr 0.001".split(),
            *("--pretrained", tmp_path / "1/PTLOC.1"),
        )
        results.append(json.loads((out / "dev.json").read_text()))
        encoders.append(torch.load(find_checkpoint(out) / "encoder.ckpt"))
    for key in encoders[0]:
        torch.testing.assert_close(*(e[key] for e in encoders), rtol=1e-3, atol=1e-4)
    assert [u["id"] for u in results[0]] == [u["id"] for u in results[1]]
    assert len({u["id"] for u in results[1]}) == len(results[1]) > 5  # each once


def test_more_ranks_than_units_are_refused():
    plan = Plan([2.0] * 20, [0, 1] * 10, ["a", "b"], global_batch_seconds=4, seed=1)
    GlobalBatches(None, plan, rank=1, size=2)
    with pytest.raises(
        ValueError, match="3 ranks for 2 units.*raise replicas_per_domain"
    ):
        GlobalBatches(None, plan, rank=2, size=3)


def test_replicas_have_batches_of_their_own_and_the_same_seconds():
    rng = np.random.default_rng(0)
    durations, domains = rng.uniform(1, 9, 600), rng.integers(0, 2, 600)
    settings = dict(global_batch_seconds=60, seed=1)
    plans = [
        Plan(durations, domains, ["a", "b"], replicas_per_domain=r, **settings)
        for r in (1, 3)
    ]
    units = plans[1][5]
    assert [unit.domain for unit in units] == ["a"] * 3 + ["b"] * 3
    rows = np.concatenate([unit.batches[0] for unit in units])
    assert len(set(rows.tolist())) == len(rows)
    seconds = [
        sum(
            durations[u.batches[0]].sum()
            for t in range(p.steps_per_epoch)
            for u in p[t]
        )
        / p.steps_per_epoch
        for p in plans
    ]
    assert seconds[0] == pytest.approx(seconds[1], rel=0.05)
    seen = [
        row
        for t in range(plans[1].steps_per_epoch)
        for unit in plans[1][t]
        for row in unit.batches[0]
    ]
    assert len(seen) == len(set(seen)) > 500  # once an epoch


@pytest.mark.parametrize("n_ranks", [2, 4, 8])
def test_no_rank_waits_long(n_ranks):
    assert simulated_idle(n_ranks, replicas=8, steps=10).max() < 0.1


def test_units_go_to_the_rank_with_least_the_longest_first():
    assert sorted(share_out([1.0] * 4, 4)) == [0, 1, 2, 3]
    assert share_out([1.0, 1.0, 2.0], 2) == [1, 1, 0]  # the longest first


def test_an_utterance_costs_no_more_than_the_window_that_is_read():
    durations = np.array([500.0, 9, 9, 9])
    options = dict(global_batch_seconds=50, seed=1, max_utterance_seconds=10)
    plan = Plan(durations, range(4), [*"abcd"], **options)
    utterances = SimpleNamespace(
        manifest=SimpleNamespace(duration=durations), max_seconds=10
    )
    owners = GlobalBatches(utterances, plan, size=2).owners(plan[0])
    assert sorted(owners) == [0, 0, 1, 1]


def test_a_domain_stays_with_its_rank_where_its_state_does():
    rng = np.random.default_rng(0)
    plan = Plan(
        rng.uniform(1, 9, 900),
        rng.integers(0, 5, 900),
        [*"abcde"],
        global_batch_seconds=30,
        seed=1,
        domains_per_iteration=3,
    )
    batches = GlobalBatches(None, plan, rank=0, size=2, fixed_owners=True)
    owners = {}
    for t in range(plan.steps_per_epoch):
        for unit, owner in zip(plan[t], batches.owners(plan[t])):
            assert owners.setdefault(unit.domain, owner) == owner
    assert set(owners.values()) == {0, 1}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What each of two ranks gives in :func:`on_a_rank`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(python()))
        return on_ranks(2, on_a_rank, tmp_path_factory.mktemp("two_ranks"))


def on_a_rank(folder):
    rank, _ = parallel.rank_and_size()
    os.environ["RANK"] = str(rank)  # where SpeechBrain looks
    return SimpleNamespace(
        sums=[reduced_in_buckets(size) for size in (10**6, 100, 1)],
        cosines=[
            cosines_of(part) for part in (UNITS[rank], UNITS[rank][: 2 - 2 * rank])
        ],
        statistics=averaged_statistics(folder / "statistics"),
        shares=[loaded(keywords) for keywords in LOADERS],
        runs=[interrupted_runs(folder / str(i), LOADERS[i]) for i in (0, 1)],
        states=kept_states(folder / "states"),  # the last: it makes new groups
    )


def reduced_in_buckets(bucket_bytes):
    """Sums of gradients of two dtypes; rank 1 lacks one, all lack another."""
    rank, _ = parallel.rank_and_size()
    params = [torch.nn.Parameter(torch.zeros(3, i + 1)) for i in range(6)]
    params[2].data = params[2].data.double()
    for i, param in enumerate(params):
        if i != 4 and not (i == 1 and rank == 1):
            param.grad = torch.full_like(param, 10.0**rank * (i + 1))
    figures = torch.tensor([2.0, rank], dtype=torch.float64)
    with patch.object(parallel, "BUCKET_BYTES", bucket_bytes):
        n_buckets = len(parallel._buckets(params))
        figures, ranks = parallel.reduce_gradients(params, figures)
        parallel.drop_absent(params, ranks.tolist())
    return n_buckets, [p.grad for p in params], figures.tolist()


def test_gradients_are_added_up_in_buckets(two_ranks):
    by_rank = [found.sums for found in two_ranks]
    assert [[n for n, _, _ in sizes] for sizes in by_rank] == 2 * [[2, 3, 6]]
    for _, grads, figures in sum(by_rank, []):
        assert figures == [4.0, 1.0]
        assert grads[4] is None
        for i in (0, 1, 2, 3, 5):
            expected = (1.0 if i == 1 else 11.0) * (i + 1)
            assert grads[i].shape == (3, i + 1)
            assert grads[i].dtype == (torch.float64 if i == 2 else torch.float32)
            assert torch.all(grads[i] == expected)


# Rank → the domains of its units: replicas of one, and one that was not finite.
UNITS = ["ab0", "acab"]


def hypergradients(domains):
    """Domain and gradients of two parameters of each of some units."""
    for i, domain in enumerate(domains):
        rng = torch.Generator().manual_seed(10 * len(domains) + i)
        first, second = torch.randn(3, 4, generator=rng), torch.randn(11, generator=rng)
        if domain == "0":
            first, second = first.zero_(), second.zero_()
        yield domain, [first, None if i == 1 else second]


def cosines_of(*of_ranks):
    """Cosines between the domains of some units, those of other ranks included."""
    monitor, params = DomainMonitor(), [torch.zeros(3, 4), torch.zeros(11)]
    monitor.keep_gradient("a", [torch.ones(3, 4), None], params, iteration=3)
    for domains in of_ranks:
        for domain, grads in hypergradients(domains):
            monitor.keep_gradient(domain, grads, params, iteration=4)
    if not any(of_ranks):
        monitor.gradients = {}
    with patch.object(gram, "CHUNK", 7):
        return monitor.cosines()


def test_cosines_are_between_domains_whichever_ranks_have_them(two_ranks):
    sums = {}
    for domain, (first, second) in (
        u for units in UNITS for u in hypergradients(units)
    ):
        second = torch.zeros(11) if second is None else second
        vector = torch.cat([first.flatten(), second]).double()
        sums[domain] = sums.get(domain, 0) + vector
    expected = {
        f"cosine/{a}~{b}": torch.cosine_similarity(sums[a], sums[b], dim=0).item()
        for a, b in ("ab", "ac", "bc")
    }
    assert cosines_of(*UNITS) == pytest.approx(expected, rel=1e-6)
    for found in two_ranks:
        whole, of_one_rank = found.cosines
        assert whole == pytest.approx(expected, rel=1e-6)
        assert of_one_rank == pytest.approx(cosines_of("ab"))


class Counting(torch.nn.Module):
    """Keeps running figures as attributes, as some of SpeechBrain's modules do."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.count, self.mean = rank, 0, torch.zeros(1)
        self.register_buffer("table", torch.zeros(0))

    def forward(self, x):
        if self.training:
            self.count += len(x)
            self.mean = self.mean + (x.mean() - self.mean) / 10
            if len(x) > len(self.table):
                self.table = torch.arange(float(len(x)))
        return x

    def figures(self):
        return self.rank, self.count, self.mean.item(), self.table.tolist()


def averaged_statistics(folder):
    """On a rank: train on batches unlike those of the other rank.

    Returns
    -------
    events : list
        ``valid``, and the statistics before and after each averaging.
    saved : list of dict
        ``norm`` in each checkpoint.
    """
    rank, _ = parallel.rank_and_size()
    norm, counting, events = torch.nn.BatchNorm1d(1), Counting(rank), []

    def statistics():
        return {k: v.item() for k, v in norm.state_dict().items()}, counting.figures()

    class Own(HeteroBrain):
        def compute_forward(self, batch, stage):
            return self.modules.norm(self.hparams.counting(batch))

        def compute_objectives(self, predictions, batch, stage):
            return (predictions - 1).square().mean()

        def on_stage_start(self, stage, epoch=None):
            if stage == sb.Stage.VALID:
                events.append("valid")

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == sb.Stage.TRAIN:  # SpeechBrain's recipes may save here, too
                self.checkpointer.save_and_keep_only(num_to_keep=9, importance_keys=[])

        def average_statistics(self):
            before = statistics()
            super().average_statistics()
            events.append((before, statistics()))

    brain = Own(
        {"norm": norm},
        partial(torch.optim.SGD, lr=0.1),
        {"counting": counting},
        {"device": "cpu", "noprogressbar": True, "ckpt_interval_steps": 2},
        Checkpointer(folder, {"norm": norm}),
    )
    batches = [torch.arange(2.0 + rank).add(t + 5 * rank)[:, None] for t in range(3)]
    domains = [[DomainBatch("ab"[rank], (batch,))] for batch in batches]
    brain.fit(
        range(1, 2), domains, batches[:1], valid_loader_kwargs={"batch_size": None}
    )
    found = Checkpointer(folder).find_checkpoints()[::-1]
    return events, [torch.load(c.paramfiles["norm"]) for c in found]


def test_statistics_are_averaged_before_they_are_saved_and_before_validations(
    two_ranks,
):
    (events, saved), (other_events, _) = (found.statistics for found in two_ranks)
    assert events[-1] == other_events[-1] == "valid" and len(saved) == 2
    assert len(events) == len(other_events) == len(saved) + 2
    for (before, after), (other_before, other_after) in zip(
        events[:-1], other_events[:-1]
    ):
        (norm, (_, count, mean, table)), (other_norm, other) = before, other_before
        expected = {
            key: pytest.approx((norm[key] + other_norm[key]) / 2)
            for key in ("running_mean", "running_var")
        }
        assert after[0] == other_after[0] == {**norm, **expected}
        # What no pass has changed differs; of what was counted, rank 0's is taken.
        average = pytest.approx((mean + other[2]) / 2)
        assert after[1] == (0, count, average, table)
        assert other_after[1] == (1, *after[1][1:])
    (norm, counted), (other_norm, other_counted) = events[0][0], other_events[0][0]
    assert norm["running_mean"] != other_norm["running_mean"]
    assert norm["num_batches_tracked"] == 2
    assert counted == (0, 4, pytest.approx(0.195), [0, 1])
    assert (other_counted[1], other_counted[3]) == (6, [0, 1, 2])
    for state, (_, (norm, _)) in zip(saved, events):
        assert {key: value.item() for key, value in state.items()} == norm


class Kept(HeteroBrain):
    """With a state of the local optimizer for each unit."""

    def __init__(self, folder=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        saver = folder and AtomicCheckpointer(folder, {"model": model})
        hparams = {"local_steps": 2, "local_optimizer_state": "per_domain"}
        hparams["local_optimizer"] = partial(torch.optim.AdamW, lr=0.1)
        sgd, options = partial(torch.optim.SGD, lr=0.1), {"device": "cpu"}
        super().__init__({"model": model}, sgd, hparams, options, saver)
        self.on_fit_start()
        self.modules.train()

    def compute_forward(self, batch, stage):
        return self.modules.model(batch)

    def compute_objectives(self, predictions, batch, stage):
        return (predictions - 1).square().mean()

    def iterate(self, steps, turn=0):
        """Iterations with two units each, as sums of two do not depend on their order.

        Unit i belongs to rank i + ``turn``, in turn.
        """
        rank, size = parallel.rank_and_size()
        for t in steps:
            units = [("a", t % 2), ("bc"[t % 2], 0)]  # a and b, or a#1 and c
            share = Share(domain for domain, _ in units)
            for i, (domain, replica) in enumerate(units):
                if (i + turn) % size == rank:
                    rng = torch.Generator().manual_seed(2 * t + i)
                    batch = torch.randn(4, 3, generator=rng)
                    share.append(DomainBatch(domain, (batch,), replica))
            self.fit_batch(share)

    def figures(self):
        """θ, and the states of this rank, as lists of numbers."""
        states = {
            unit: [x.tolist() for part in state.values() for x in part.values()]
            for unit, state in self.local_solver.states.items()
        }
        return [p.tolist() for p in self.modules.parameters()], states


def kept_states(folder):
    """On a rank: a run on two ranks, continued on one, and on two again.

    Returns
    -------
    held : list of list
        The units whose states this rank had at the end of each part.
    theta, states
        At the end.
    expected
        Both at the end of a run without a stop on one rank, from rank 0.
    """
    rank, _ = parallel.rank_and_size()
    held, expected = [], None
    brain = Kept(folder)
    brain.iterate(range(4))
    brain.checkpointer.save_checkpoint()
    held.append([*brain.local_solver.states])
    torch.distributed.destroy_process_group()
    if rank == 0:
        brain = Kept(folder)
        brain.iterate([4])
        brain.checkpointer.save_checkpoint()
        held.append([*brain.local_solver.states])
        for checkpoint in brain.checkpointer.find_checkpoints()[1:]:
            shutil.rmtree(checkpoint.path)
        brain = Kept()
        brain.iterate(range(7))
        expected = brain.figures()
    place = f"file://{folder}/again"
    torch.distributed.init_process_group("gloo", place, rank=rank, world_size=2)
    brain = Kept(folder)
    brain.iterate([5, 6], turn=1)
    held.append([*brain.local_solver.states])
    return held, *brain.figures(), expected


def test_each_rank_has_the_optimizer_states_of_its_own_units(two_ranks):
    (first, theta, states, expected), second = (found.states for found in two_ranks)
    assert first == [["a", "a#1"], ["a", "b"], ["c", "b"]]
    assert second[0] == [["b", "c"], ["a#1", "a"]]
    assert theta == second[1] == expected[0]
    assert states | second[2] == expected[1]


LOADERS = [
    {"seed": 1, "batch_size": 2},
    {"seed": 1, "batch_sampler": dynamic},
    {"seed": 1, "batch_size": 1, "replicas_per_domain": 3},
]


def loaded(keywords):
    """On a rank: two epochs, and the second from its third iteration on."""
    loader = domain_loader(speech(), **keywords)
    whole = epochs(loader, 2)
    return whole, epochs(domain_loader(speech(), **keywords), 1, first=len(loader) + 2)[
        0
    ]


@pytest.mark.parametrize("i", range(len(LOADERS)))
def test_ranks_share_what_a_domain_loader_gives(two_ranks, i):
    (one, one_rest), (other, other_rest) = (found.shares[i] for found in two_ranks)
    whole = epochs(domain_loader(speech(), **LOADERS[i]), 2)
    for epoch, *of_ranks in zip(whole, one, other, strict=True):
        for units, mine, yours in zip(epoch, *of_ranks, strict=True):
            assert mine and yours and not mine.keys() & yours.keys()
            assert mine | yours == units
    assert (one_rest, other_rest) == (one[1][2:], other[1][2:]) and one_rest


def interrupted_runs(folder, keywords):
    """On a rank: the ids of the batches and the weights of a run, and of one that was
    interrupted after two iterations and started again."""
    rank, _ = parallel.rank_and_size()
    domains = 2 - rank  # of three
    keywords = {"batch_size": None, **keywords}
    runs = [
        train(folder / "whole", **keywords),
        train(folder / "resumed", left=2 * domains, **keywords),
        train(folder / "resumed", **keywords),
    ]
    weights = [brain.modules.model.weight.tolist() for brain in runs]
    return [brain.seen for brain in runs], weights


@pytest.mark.parametrize("i", [0, 1])
def test_two_ranks_resume_within_an_epoch(two_ranks, i):
    whole = epochs(domain_loader(speech(), **LOADERS[i]), 2)
    states = []
    for rank, found in enumerate(two_ranks):
        (seen, *parts), weights = found.runs[i]
        mine = ["en", "it"] if rank == 0 else ["fr"]
        assert seen == [units[d][0] for epoch in whole for units in epoch for d in mine]
        assert parts[0][: 2 * len(mine)] + parts[1] == seen
        assert weights[0] == weights[2] != weights[1]
        states.append(weights[0])
    assert states[0] == states[1]


def test_communication_in_a_local_solve_is_refused(script, tmp_path):
    """Instead of a hang, as ranks have different numbers of solves."""
    normalised = tmp_path / "normalised.py"
    body = "        hidden = torch.tanh(self.modules.net.body(x))\n"
    assert body in SCRIPT
    lines = SCRIPT.replace(
        body, "        x = self.hparams.norm(x[None].float())[0].double()\n" + body
    )
    norm = 'InputNormalization(norm_type="global")'
    lines = lines.replace('"solve_seed": 3,', f'"solve_seed": 3, "norm": {norm},')
    imported = "from speechbrain.processing.features import InputNormalization\n"
    normalised.write_text(imported + lines)
    done = torchrun(2, normalised, tmp_path / "out.json", PLAIN, check=False)
    assert done.returncode != 0
    assert "torch.distributed.all_reduce was called in a local solve" in done.stdout
    assert "RuntimeError" in done.stdout and "normalisation" in done.stdout
    torchrun(1, normalised, tmp_path / "out.json", PLAIN)


def test_whatever_a_synchronised_batch_norm_calls_is_refused(monkeypatch):
    """By another name in each version of PyTorch."""
    source = inspect.getsource(torch.nn.modules._functions)
    names = {*re.findall(r"dist\.(\w+)\(", source)}
    assert names
    monkeypatch.setattr(parallel, "rank_and_size", lambda: (0, 2))
    with parallel.without_collectives():
        for name in names | {"all_reduce", "barrier", "broadcast_object_list", "send"}:
            with pytest.raises(RuntimeError, match=f"distributed.{name} was called in"):
                getattr(torch.distributed, name)()
        assert not torch.distributed.is_initialized()  # which is no communication


def test_a_rank_that_dies_takes_the_job_down(script, tmp_path):
    """Instead of a hang: the other ranks exit, too, and the launcher reports it."""
    dying = tmp_path / "dying.py"
    death = "        if rank == 1 and t == 2: import os; os._exit(9)\n"
    lines = SCRIPT.replace("        share = []", death + "        share = []")
    assert lines != SCRIPT
    dying.write_text(lines)
    done = torchrun(2, dying, tmp_path / "out.json", PLAIN, check=False)
    assert done.returncode != 0 and "exitcode" in done.stdout
    assert not (tmp_path / "out.json").exists()
