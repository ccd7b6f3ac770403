"""The benchmarks measure what they claim: turns, memory, limits, and equal models."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks import (
    bilevel,
    limit,
    measure,
    models,
    scaling,
    speech,
    throughput,
)
from tests.benchmarks.bilevel import passes, plain_passes
from tests.benchmarks.kept import kept
from tests.gpu.__main__ import SECTIONS
from tests.processes import python

ROOT = Path(__file__).parents[2]


def test_candidates_take_turns_and_warm_up_does_not_count():
    calls = []
    times = measure.alternate({n: lambda n=n: calls.append(n) for n in "ab"}, 2)
    assert calls == list("abbaab")
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}


def process_of(name, seen):
    return name, os.getpid(), seen


def test_candidates_in_processes_of_their_own_take_turns(monkeypatch):
    found = []

    def alternate(candidates, repeats):
        found.extend(call() for call in candidates.values() for _ in range(repeats))

    monkeypatch.setattr(measure, "alternate", alternate)
    measure.alternate_processes(process_of, ["a", "b"], 2, 7)
    assert [(name, seen) for name, _, seen in found] == [("a", 7)] * 2 + [("b", 7)] * 2
    processes = [process for _, process, _ in found]
    assert processes[::2] == processes[1::2]  # kept from one round to the next
    assert len({*processes, os.getpid()}) == 3


def test_spread_and_ratios():
    assert measure.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == "3 [2, 4]"
    assert measure.spread([2.5]) == "2.5"
    assert measure.ratios([4.0, 9.0], [2.0, 3.0]) == [2.0, 3.0]


def allocate(megabytes):
    kept = torch.ones(megabytes, 250_000)  # touched
    return kept.numel()


def peak_of(megabytes):
    return measure.peak_bytes(lambda: [allocate(megabytes) for _ in range(3)])


def test_peak_memory_is_the_highest_and_not_the_sum():
    assert measure.in_new_process(peak_of, 300) == pytest.approx(300e6, rel=0.1)


def test_a_table_as_markdown():
    table = measure.Table("T", ["a", "b"], [["x", 1.23456], [2, "y"]], ["note"])
    lines = ["### T", "", "| a | b |", "|---|---|", "| x | 1.23 |", "| 2 | y |"]
    assert table.markdown() == "\n".join([*lines, "", "- note"])


def test_both_codes_train_the_same_model():
    """The same layers; only attention has additional weights for relative positions."""
    theirs, ours = (
        throughput.BUILDERS[n]("mini") for n in list(throughput.BUILDERS)[:2]
    )
    layers = theirs.modules.wrapper.transformer.encoder.layers
    named = {
        name: param.shape
        for name, param in layers.named_parameters()
        if not any(key in name for key in ("pos_bias", "linear_pos"))
    }
    assert named == {
        n: p.shape for n, p in ours.modules.encoder.blocks.layers.named_parameters()
    }
    dropouts = [
        {m.p for m in brain.modules.modules() if isinstance(m, torch.nn.Dropout)}
        for brain in (theirs, ours)
    ]
    assert dropouts[0] == dropouts[1] == {models.DROPOUT}
    groups = [
        {k: v for k, v in brain.optimizer.param_groups[0].items() if k != "params"}
        for brain in (theirs, ours)
    ]
    assert groups[0] == groups[1]


def test_both_codes_see_the_same_speech_and_learn():
    theirs, ours = (
        throughput.BUILDERS[n]("tiny") for n in list(throughput.BUILDERS)[:2]
    )
    batch = speech.batch(8, 3)
    wavs, lengths, _ = models.speechbrain_batch(batch)
    assert torch.equal(wavs, batch.sig.data)
    torch.testing.assert_close(lengths, batch.sig.lengths)
    theirs_losses = [
        float(theirs.fit_batch(models.speechbrain_batch(batch))) for _ in range(8)
    ]
    part = [throughput.DomainBatch("a", (batch,))]
    our_losses = [float(ours.fit_batch(part)) for _ in range(8)]
    for losses in (theirs_losses, our_losses):
        assert losses[0] == pytest.approx(np.log(8192), rel=0.1)
        assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("plain_first", [False, True])
def test_plain_passes_are_as_many_beside_an_iteration_and_do_not_touch_it(plain_first):
    parts = speech.global_batch(2, 4)
    alone, beside = models.ours("mini", 1), models.ours("mini", 1)
    passes, found = [], []

    def count(batch, stage, forward=beside.compute_forward):
        passes.append(torch.is_grad_enabled())
        return forward(batch, stage)

    def add(grads, brain=beside, accumulate=beside.accumulate):
        found.append([grad.clone() for grad in grads])
        accumulate(grads)

    beside.compute_forward, beside.accumulate = count, add
    alone.fit_batch(parts)
    iteration, plain, ratios = bilevel.both(beside, parts, plain_first)
    assert len(passes) == 2 * 2 * 2  # parts × passes × both
    assert iteration > 0 and plain > 0 and len(found) == len(ratios) == 2
    assert min(ratios) < iteration / plain < max(ratios)
    for a, b in zip(alone.local_solver.params, beside.local_solver.params):
        assert torch.equal(a, b)
    assert beside.local_solve.__func__ is type(beside).local_solve


def test_plain_passes_add_up_the_gradient_at_theta():
    (part,), brain = speech.global_batch(1, 2), models.ours("mini", 2)
    params, own = brain.local_solver.params, torch.ones(1)
    params[0].grad = own.expand(params[0].shape)
    grads = [None] * len(params)
    assert plain_passes(brain, part, grads) > 0
    assert params[0].grad.sum() == params[0].numel()  # its own again
    loss = brain.compute_forward(part.batches[0], bilevel.TRAIN)
    loss = brain.compute_objectives(loss, part.batches[0], bilevel.TRAIN)
    for sum_of_three, grad in zip(grads, torch.autograd.grad(loss, params)):
        torch.testing.assert_close(sum_of_three, 3 * grad, rtol=1e-4, atol=1e-6)


def test_passes_over_the_parameters_are_all_timed():
    taken, whole = passes("mini", speech.global_batch(2, 2), 1, 1)
    *over_parameters, _ = (
        taken.values()
    )  # the last is a difference, and may be negative
    assert len(over_parameters) == 5 and min(over_parameters) > 0
    assert sum(over_parameters) < whole


def test_what_gradients_kept_apart_take_is_the_difference_of_two_passes(monkeypatch):
    brain, parts = models.ours("mini", 1), speech.global_batch(2, 1)
    added, apart = [], []

    def run(ways, rounds, warm_up):
        apart.append(ways["apart"]())
        ways["added"]()
        added.append([param.grad.clone() for param in brain.local_solver.params])
        return {"apart": [5.0, 3.0, 4.0], "added": [2.0, 1.0, 1.0]}

    monkeypatch.setattr(bilevel, "alternate", run)
    assert bilevel.kept_apart(brain, parts, 3) == 3000  # ms, the median
    torch.testing.assert_close(apart[0], tuple(added[0]))
    both = [a + b for a, b in zip(*apart)]
    torch.testing.assert_close(both, added[1])
    assert all(param.grad is None for param in brain.modules.parameters())


def test_what_the_backward_pass_keeps_is_counted_once():
    first, second, third = (torch.nn.Linear(8, 8) for _ in range(3))
    x = torch.randn(5, 8)
    hidden = first(x)
    active = torch.nn.functional.silu(hidden)
    loss = (second(active) + third(active)).sum()  # both need one tensor
    modules = (first, second, third)
    found = kept(loss, [p for m in modules for p in m.parameters()])
    size = 5 * 8 * 4
    assert found["inputs of matrix products"] == 2 * size  # x, and what is active
    assert found["inputs of activations"] == size
    assert sum(found.values()) == 3 * size


def test_padding_of_a_batch_is_what_no_utterance_fills():
    batch = speech.batch(8)
    samples = batch.sig.lengths * batch.sig.data.shape[1]
    inside = torch.arange(batch.sig.data.shape[1]) < samples.unsqueeze(1)
    found = speech.padding_of(batch)
    assert 0 < found < 0.2
    assert found == pytest.approx(1 - inside.float().mean().item(), abs=1e-3)


def test_long_utterances_have_their_length():
    batch = scaling.long_batch(3, 2)
    assert batch.sig.data.shape == (2, 3 * speech.RATE)
    assert (
        batch.sig.lengths.tolist() == [1, 1] and batch.sig.data.abs().amax(1).min() > 0
    )


def test_bend_is_that_from_a_straight_line():
    x = [1.0, 2.0, 4.0]
    assert scaling.bend(x, [3.0, 5.0, 9.0]) < 1e-9
    assert scaling.bend(x, [1.0, 4.0, 16.0]) > 0.05


def test_operators_are_recorded_with_their_shapes_and_replayed():
    layer, x = torch.nn.Linear(7, 3), torch.randn(1, 7, requires_grad=True)
    places = torch.tensor([0, 0])  # there is no place 1
    with limit.Recorder() as recorder:
        layer(x)[places].sum().backward()
    calls = list(zip(recorder.calls, recorder.heavy()))
    heavy = [call for call, is_heavy in calls if is_heavy]
    assert len(heavy) == 3 and all("mm" in str(operator) for operator, _ in heavy)
    others = [str(operator) for (operator, _), is_heavy in calls if not is_heavy]
    assert "aten.index.Tensor" in others and "aten.sum.default" in others
    args, _ = limit.revive(heavy[0][1])
    assert [tuple(arg.shape) for arg in args] == [(3,), (1, 7), (7, 3)]
    of_heavy, of_all = limit.replay(recorder)
    assert 0 < of_heavy < of_all


def test_shares_of_a_profile_add_up():
    x = torch.randn(300, 300)
    shares = limit.profiled(lambda: [x @ x for _ in range(20)])
    assert sum(shares.values()) == pytest.approx(100)
    assert shares["matrix products"] > 50


def last_command(target):
    """The words of the last command of a target of the Makefile."""
    words = ["make", "--dry-run", "--no-print-directory", target]
    dry = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return dry.stdout.splitlines()[-1].split()


def test_sections_for_a_gpu_run_on_a_cpu_as_make_runs_them(tmp_path):
    """All of them give tables of what they measured, in which nothing has failed."""
    command = last_command("gpu")
    assert command[1:] == ["-m", "tests.gpu"]
    options = ["--device", "cpu", "--output_folder", str(tmp_path)]
    words = [python(), *command[1:], *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tables = json.loads((tmp_path / "gpu.json").read_text())["tables"]
    counts = Counter(table["section"] for table in tables)
    assert {*counts} == {*SECTIONS} and counts["kernels"] == 6
    for table in tables:
        assert table["title"] in done.stdout and table["rows"], table["title"]
        assert not table["failures"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_quick_benchmarks_run_as_make_runs_them(tmp_path):
    """All sections run, with smaller models, and write their files with all figures."""
    command = last_command("bench-quick")
    assert command[1:] == ["-m", "tests.benchmarks", "--quick"]
    words = [python(), *command[1:], "mini", "--output_folder", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "bench.json").read_text())
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert results["machine"]["torch"] == torch.__version__
    assert len(results["tables"]) >= 10
    for table in results["tables"]:
        assert table["title"] in done.stdout and table["rows"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
