"""From SpeechBrain's datasets to global batches, by ``domain_loader``."""

import random
import re
import subprocess
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import BatchSampler, Dataset, RandomSampler

from hetero_brain import DomainBatch, HeteroBrain, Share, domain_loader
from hetero_brain.data import domain_loader as module
from hetero_brain.errors import InputError
from tests.processes import python

SIZES = {"en": 9, "fr": 5, "it": 3}
OPTIONS = {"device": "cpu", "noprogressbar": True}


def seconds(number):
    return 1.0 + number % 3


def rows():
    """Rows of three domains, in no order of domains."""
    names = [f"{domain}{i}" for domain, n in SIZES.items() for i in range(n)]
    random.Random(1).shuffle(names)
    return {
        name: {"domain": name[:2], "number": i, "duration": seconds(i)}
        for i, name in enumerate(names)
    }


def speech(keys=("id", "sig", "domain")):
    dataset = DynamicItemDataset(rows())
    dataset.add_dynamic_item(
        lambda number: torch.full((2 + number % 3,), float(number)), "number", "sig"
    )
    dataset.set_output_keys(list(keys))
    return dataset


def dynamic(part, **options):
    return DynamicBatchSampler(part, 6, num_buckets=2, **options)


def epochs(loader, n, first=0):
    """The ids of every batch of n epochs: epoch → iteration → unit → batch → ids."""
    found = []
    for epoch in range(n):
        loader.sampler.start_at(first + epoch * len(loader))
        found.append(
            [
                {part.unit: [batch.id for batch in part.batches] for part in share}
                for share in loader
            ]
        )
    return found


def batches_of(epoch, unit):
    return [ids for iteration in epoch for ids in iteration[unit]]


# -------------------------------------------------------------------- what it yields


def test_an_epoch_is_a_pass_over_the_domain_with_the_most_batches():
    loader = domain_loader(speech(), batch_size=2, seed=1)
    assert len(loader) == 5
    one, two = epochs(loader, 2)
    for epoch in (one, two):
        assert all([*iteration] == ["en", "fr", "it"] for iteration in epoch)
        for domain, size in SIZES.items():
            ids = sum(batches_of(epoch, domain), [])
            assert all(name.startswith(domain) for name in ids)
            first_pass = ids[:size]
            assert sorted(first_pass) == sorted({f"{domain}{i}" for i in range(size)})
    assert [len(ids) for ids in batches_of(one, "it")] == [2, 1, 2, 1, 2]
    italian = batches_of(one, "it")
    assert len({*map(tuple, italian + batches_of(two, "it"))}) > 4  # shuffled again
    assert one != two and epochs(loader, 2) == [one, two]
    assert epochs(domain_loader(speech(), batch_size=2, seed=2), 1) != [one]


def test_what_is_yielded():
    share = next(iter(domain_loader(speech(), batch_size=4)))
    assert type(share) is Share and share.domains == ("en", "fr", "it")
    for part in share:
        (batch,) = part.batches
        assert type(batch) is PaddedBatch and batch.domain == [part.domain] * len(
            batch.id
        )
        numbers = [rows()[name]["number"] for name in batch.id]
        lengths = (batch.sig.lengths * batch.sig.data.shape[1]).round().long()
        assert batch.sig.data[:, 0].tolist() == numbers
        assert lengths.tolist() == [2 + number % 3 for number in numbers]


def test_sizes_of_each_domain():
    loader = domain_loader(speech(), batch_size={"en": 4, "fr": 2, "it": 1})
    (epoch,) = epochs(loader, 1)
    assert len(epoch) == 3  # as many as each of the three has
    assert [len(x) for x in batches_of(epoch, "en")] == [4, 4, 1]
    assert [len(x) for x in batches_of(epoch, "fr")] == [2, 2, 1]
    assert [len(x) for x in batches_of(epoch, "it")] == [1, 1, 1]
    loader = domain_loader(speech(), batch_size=2, drop_last=True, shuffle=False)
    (epoch,) = epochs(loader, 1)
    english = [name for name in rows() if name.startswith("en")]
    assert batches_of(epoch, "en") == [english[i : i + 2] for i in range(0, 8, 2)]
    assert [len(x) for x in batches_of(epoch, "it")] == [2] * 4


def test_dynamic_batching():
    loader = domain_loader(speech(), batch_sampler=dynamic)
    whole = speech()
    first, second = epochs(loader, 2)
    for domain in SIZES:
        names = [name for name in whole.data_ids if name.startswith(domain)]
        theirs = dynamic(whole.filtered_sorted(key_test={"domain": domain.__eq__}))
        passes = 1 + len(loader) // len(theirs)
        for epoch, found in enumerate((first, second)):
            expected = []
            for number in range(epoch * passes, (epoch + 1) * passes + 5):
                theirs.set_epoch(number)
                expected += [[names[i] for i in batch] for batch in theirs]
            assert batches_of(found, domain) == expected[: len(loader)]
    for ids in batches_of(first, "en"):
        assert sum(seconds(rows()[name]["number"]) for name in ids) <= 6


def test_a_pass_may_have_another_number_of_batches():
    class Growing:
        """Pass n has n + 2 batches, one row each."""

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __len__(self):
            return self.epoch + 2

        def __iter__(self):
            return iter([[i % 3] for i in range(len(self))])

    loader = domain_loader(speech(), batch_sampler=lambda part: Growing())
    one, two = epochs(loader, 2)
    assert len(one) == len(two) == len(loader) == 2
    assert batches_of(one, "it") == batches_of(two, "it")


@pytest.mark.parametrize("keywords", [{"batch_size": 1}, {"batch_sampler": dynamic}])
def test_fresh_batches_and_replicas(keywords):
    loader = domain_loader(
        speech(), batches_per_iteration=2, replicas_per_domain=1, **keywords
    )
    (epoch,) = epochs(loader, 1)
    assert all(len(ids) == 2 for iteration in epoch for ids in iteration.values())
    if "batch_size" in keywords:
        assert len(loader) == 5  # ⌈9 / 2⌉
        loader = domain_loader(speech(), replicas_per_domain=3, **keywords)
        (epoch,) = epochs(loader, 1)
        assert len(epoch) == 3
        units = [f"en{n}" for n in ("", "#1", "#2")]
        ids = [epoch[t][unit][0][0] for t in range(3) for unit in units]
        assert len({*ids}) == 9  # each with rows of its own
        assert next(iter(loader)).domains == tuple(sorted([*SIZES] * 3))


def test_any_dataset_with_a_list_of_domains():
    class Numbers(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return torch.tensor([float(index)])

    loader = domain_loader(Numbers(), ["a", "b"] * 3, batch_size=3)
    (a, b), *others = loader
    assert not others and a.batches[0].shape == (3, 1)
    assert sorted(a.batches[0].flatten().tolist()) == [0, 2, 4]
    assert sorted(b.batches[0].flatten().tolist()) == [1, 3, 5]


def test_a_domain_as_a_dynamic_item_of_a_filtered_dataset():
    dataset = speech()

    def unread(number):
        raise AssertionError("audio was read")

    dataset.add_dynamic_item(unread, "number", "audio")
    dataset.add_dynamic_item(lambda number: number % 2, "number", "half")
    dataset.set_output_keys(["audio", "id"])
    dataset = dataset.filtered_sorted(
        sort_key="number", key_max_value={"number": 11}, reverse=True
    )
    loader = domain_loader(dataset, "half", batch_size=3)
    assert dataset.pipeline.output_mapping == {"audio": "audio", "id": "id"}
    dataset.set_output_keys(["id", "number"])
    for epoch in epochs(loader, 1):
        for half in "01":
            names = sum(batches_of(epoch, half), [])
            numbers = sorted(rows()[name]["number"] for name in names)
            assert numbers == [*range(int(half), 12, 2)]


# ----------------------------------------------------------------- what it depends on


def drawing():
    """A dataset and a ``collate_fn`` that draw from all random generators."""
    dataset = speech()
    dataset.add_dynamic_item(
        lambda number: torch.rand(2) + random.random() + np.random.rand(),
        "number",
        "noise",
    )
    dataset.set_output_keys(["id", "noise"])

    def collate(examples):
        batch = PaddedBatch(examples)
        batch.mask = torch.rand(3) + random.random()
        return batch

    return dataset, collate


def drawn(loader):
    return [
        (part.unit, batch.id, batch.noise.data.tolist(), batch.mask.tolist())
        for share in loader
        for part in share
        for batch in part.batches
    ]


@pytest.mark.parametrize("keywords", [{"batch_size": 2}, {"batch_sampler": dynamic}])
def test_batches_depend_on_the_iteration_alone(keywords):
    dataset, collate = drawing()
    make = partial(domain_loader, dataset, collate_fn=collate, seed=3, **keywords)
    before = torch.get_rng_state(), random.getstate()
    loader = make()
    loader.sampler.start_at(len(loader))
    whole = drawn(loader)
    assert len({str(noise) for _, _, noise, _ in whole}) == len(whole)
    assert random.getstate() == before[1]
    for workers in (0, 2):
        loader = make(num_workers=workers)
        loader.sampler.start_at(len(loader) + 2)
        torch.rand(1), random.random()
        assert drawn(loader) == whole[6:]
        loader.sampler.start_at(len(loader))  # by the same workers
        assert drawn(loader) == whole


SCRIPT = """
import atexit, multiprocessing, os, signal, subprocess, sys
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import get_worker_info
from hetero_brain import domain_loader
from hetero_brain.training import preemption

atexit.register(lambda: print("at exit:", multiprocessing.active_children()))
how = sys.argv[1]

def sig(number):
    assert get_worker_info() is not None
    if number == 5 and how == "error":
        raise FileNotFoundError("the fifth")
    if number == 5 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.full((10_000,), float(number))

data = {f"u{i}": {"domain": "ab"[i % 2], "number": i} for i in range(12)}
dataset = DynamicItemDataset(data)
dataset.add_dynamic_item(lambda number: sig(number), "number", "sig")  # not picklable
dataset.set_output_keys(["sig"])
started = []
loader = domain_loader(
    dataset, batch_size=1, num_workers=2, prefetch_factor=1, shuffle=False,
    worker_init_fn=lambda worker_id: torch.set_num_threads(1),
)
preemption.listen()
for epoch in range(2):
    loader.sampler.start_at(epoch * 6)
    for n, share in enumerate(loader):
        numbers = [part.batches[0].sig.data.unique().tolist() for part in share]
        assert numbers == [[2 * n], [2 * n + 1]], numbers
        if how == "signal" and n == 3:  # to the whole group, as by Ctrl-C
            ids = [str(process.pid) for process in multiprocessing.active_children()]
            for name in ("TERM", "INT"):
                subprocess.run(["kill", "-" + name, *ids], check=True)
print("done")
"""
ENDS = [
    ("success", 0, "", "done\n"),
    ("signal", 0, "", "done\n"),  # which is for the run, not for its workers
    ("error", 1, "FileNotFoundError: .*the fifth", ""),
    ("killed", 1, "ended with exit code -9: it was killed", ""),
]


@pytest.mark.parametrize("how, code, said, printed", ENDS)
def test_workers_end_with_the_process(how, code, said, printed):
    done = subprocess.run(
        [python(), "-c", SCRIPT, how], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr, re.DOTALL), done.stderr
    assert done.stdout == f"{printed}at exit: []\n"


@pytest.mark.parametrize("size, replicas", [(2, 1), (3, 1), (4, 2)])
def test_ranks_share_the_units(monkeypatch, size, replicas):
    keywords = {"batch_size": 1, "replicas_per_domain": replicas}
    whole = domain_loader(speech(), **keywords)
    loaders = []
    for rank in range(size):
        monkeypatch.setattr(module, "rank_and_size", lambda rank=rank: (rank, size))
        loaders.append(domain_loader(speech(), **keywords))
    assert {len(loader) for loader in loaders} == {len(whole)}
    assert {next(iter(x)).domains for x in loaders} == {next(iter(whole)).domains}
    ranks = [epochs(loader, 2) for loader in loaders]
    owned = [{unit for i in sum(rank, []) for unit in i} for rank in ranks]
    assert sum(map(len, owned)) == 3 * replicas and all(owned)  # each on one rank
    for epoch, iterations in enumerate(epochs(whole, 2)):
        for t, units in enumerate(iterations):
            shares = [rank[epoch][t] for rank in ranks]
            assert {k: v for share in shares for k, v in share.items()} == units


def test_more_ranks_than_units(monkeypatch):
    monkeypatch.setattr(module, "rank_and_size", lambda: (0, 4))
    with pytest.raises(ValueError, match="4 ranks for 3 units .* raise replicas_per_"):
        domain_loader(speech(), batch_size=1)


# --------------------------------------------------------------------------- errors


class Unstable(BatchSampler):
    """Draws from a generator of its own, which goes on from pass to pass."""

    def __init__(self, part):
        draw = torch.Generator().manual_seed(1)
        super().__init__(RandomSampler(part, generator=draw), 1, False)


FAULTS = [
    ({"domain_key": "accent"}, "the rows have no key 'accent', but domain, duration"),
    ({"domain_key": ["a"]}, "1 domains for 17 rows"),
    ({}, "batch_size, batch_sampler: give exactly one"),
    ({"batch_size": 1, "batch_sampler": dynamic}, "give exactly one"),
    ({"batch_size": 0}, "batch_size: 0 is not an integer ≥ 1"),
    (
        {"batch_size": {"en": 2, "fr": 1.5, "xx": 1}},
        "'it' has no size.*'xx' has a size, but no rows.*1.5 is not an integer",
    ),
    (
        {"batch_size": 1, "replicas_per_domain": 0, "batches_per_iteration": 1.0},
        "batches_per_iteration: 1.0 is not.*replicas_per_domain: 0 is not",
    ),
    ({"batch_sampler": dynamic(speech())}, "a DynamicBatchSampler mixes the domains"),
    (
        {"batch_size": 2, "sampler": range(3)},
        "sampler: leave it out; a sampler for each",
    ),
    ({"batch_sampler": dynamic, "drop_last": True}, "set them in there"),
    ({"batch_sampler": lambda part: None}, "a NoneType is not a sampler"),
    ({"batch_sampler": Unstable}, "'en' gives other batches.*'fr' gives other batches"),
    (
        {"batch_size": 5, "drop_last": True},
        "'it' has 3 rows in 0 batches, and an iteration takes 1 of each domain",
    ),
    (
        {"batch_size": 2, "batches_per_iteration": 3},
        "'it' has 3 rows in 2 batches, and an iteration takes 3",
    ),
]


@pytest.mark.parametrize("keywords, said", FAULTS)
def test_faults_are_named(keywords, said):
    with pytest.raises(InputError, match=f"(?s){said}"):
        domain_loader(speech(), **keywords)


def test_rows_without_a_domain_are_named():
    data = {f"u{i}": {"domain": "en"} for i in range(9)}
    data["u1"]["domain"], data["u3"]["domain"] = "", None
    data["u4"].pop("domain"), data["u5"].update(domain="  ")
    with pytest.raises(
        InputError, match="4 of 9 rows .* 'domain': u1, u3, u4, u5; give"
    ):
        domain_loader(DynamicItemDataset(data), batch_size=1)
    with pytest.raises(InputError, match="no rows"):
        empty = speech().filtered_sorted(key_min_value={"number": 100})
        domain_loader(empty, batch_size=1)
    with pytest.raises(InputError, match="for a list, give a list with the domain"):
        domain_loader([1, 2], batch_size=1)


# ----------------------------------------------------------------------------- runs


class Mean(HeteroBrain):
    """Notes the ids of each batch, and stops a run after some of them."""

    left = None

    def compute_forward(self, batch, stage):
        if self.left is not None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
        self.seen.append(batch.id)
        return self.modules.model(batch.sig.data[:, :2])

    def compute_objectives(self, predictions, batch, stage):
        return (predictions - 1).square().mean()


def train(folder, accumulation=1, left=None, workers=0, **keywords):
    """Two epochs, saved after each batch; ``left``: batches to an interruption."""
    torch.manual_seed(1)
    model, counter = torch.nn.Linear(2, 1), EpochCounter(2)
    brain = Mean(
        {"model": model},
        partial(torch.optim.Adam, lr=0.01),
        {},
        {
            **OPTIONS,
            "grad_accumulation_factor": accumulation,
            "ckpt_interval_steps": accumulation,
        },
        Checkpointer(folder, {"model": model, "counter": counter}),
    )
    brain.seen, brain.left = [], left
    keywords = {"batch_size": 2, "domain_key": "domain"} | keywords
    try:
        brain.fit(
            counter,
            speech(),
            train_loader_kwargs={**keywords, "num_workers": workers},
        )
    except KeyboardInterrupt:
        pass
    return brain


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("sampler", [None, dynamic])
def test_a_resumed_run_is_the_same(tmp_path, sampler, accumulation):
    keywords = {"accumulation": accumulation}
    if sampler:
        keywords |= {"batch_size": None, "batch_sampler": sampler}
    whole = train(tmp_path / "whole", **keywords)
    loader = domain_loader(
        speech(), batch_size=None if sampler else 2, batch_sampler=sampler
    )
    expected = [
        ids
        for epoch in epochs(loader, 2)
        for iteration in epoch
        for (ids,) in iteration.values()
    ]
    assert whole.seen == expected
    n_steps = len(expected) // 3
    for iterations in (2, n_steps // 2 + 2):  # in the first epoch and in the second
        folder = tmp_path / str(iterations)
        stopped = train(folder, left=3 * iterations + 1, **keywords)
        resumed = train(folder, workers=2 * (iterations == 2), **keywords)
        done = 3 * (iterations // accumulation * accumulation)
        if (
            iterations > n_steps // 2
        ):  # steps are counted from the beginning of an epoch
            extra = (iterations - n_steps // 2) // accumulation * accumulation
            done = 3 * (n_steps // 2 + extra)
        assert stopped.seen[:done] + resumed.seen == expected
        for a, b in zip(whole.modules.parameters(), resumed.modules.parameters()):
            assert torch.equal(a, b)


def test_a_set_of_global_batches_takes_what_speechbrain_takes():
    """Without ``domain_key`` the kwargs of a recipe go on working."""
    examples = [{"id": str(i), "sig": torch.full((2,), i / 8)} for i in range(8)]

    def collate(pairs):
        return [DomainBatch(d, (PaddedBatch(pairs),)) for d in "ab"]

    kwargs = {"batch_sampler": [[0, 1], [2, 3]], "collate_fn": collate}
    brain = fit(examples, **kwargs)
    assert brain.seen == 2 * [["0", "1"], ["0", "1"], ["2", "3"], ["2", "3"]]
    brain = fit(examples, batch_size=4, collate_fn=collate)
    assert Counter(map(len, brain.seen)) == {4: 8}
    ready = [collate(examples[:3]), collate(examples[3:])]
    brain = fit(ready, drop_last=True, shuffle=True)
    assert Counter(map(len, brain.seen)) == {3: 4, 5: 4}


def fit(train_set, **kwargs):
    brain = Mean(
        {"model": torch.nn.Linear(2, 1)}, partial(torch.optim.SGD, lr=0.1), {}, OPTIONS
    )
    brain.seen = []
    brain.fit(range(1, 3), train_set, train_loader_kwargs=kwargs)
    return brain


def test_a_dataset_without_a_domain_key():
    with pytest.raises(InputError, match="train_loader_kwargs: add domain_key"):
        fit(speech(), batch_size=2)
