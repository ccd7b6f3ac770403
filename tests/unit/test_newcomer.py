"""Slips of people who use this for the first time are named."""

from argparse import Namespace

import pytest
import torch

from hetero_brain import DomainBatch
from hetero_brain.data.recordings import recordings
from hetero_brain.domain_batch import domains_of
from hetero_brain.errors import InputError
from hetero_brain.models.model_folder import missing
from hetero_brain.pipelines.overrides import override
from hetero_brain.pipelines.phases import Phase
from hetero_brain.pipelines.yaml_files import read_tree
from hetero_brain.training.settings import brain_settings
from tests.unit.test_doubts import EVEN, doubts_of


def test_a_key_without_its_dashes(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("output_folder: results\nseed: 1\n")
    tree = read_tree(path)
    with pytest.raises(InputError, match="is --seed meant?"):
        override(tree, "--output_folder results/t3 seed 3".split(), path)
    override(tree, "--output_folder results/with seeds".split(), path)
    assert tree["output_folder"] == "results/with seeds"


def test_a_batch_without_its_tuple():
    with pytest.raises(TypeError, match=r"batches of domain en: .* write \(batch,\)"):
        DomainBatch("en", torch.rand(8, 40))


@pytest.mark.parametrize(
    "batch, found",
    [
        (torch.rand(8, 40), "Tensor"),
        ({"sig": 1}, "dict"),
        ([torch.rand(8)], "list with Tensor"),
        (DomainBatch("en", (1,)), "DomainBatch"),
    ],
)
def test_a_batch_that_is_no_global_batch(batch, found):
    with pytest.raises(TypeError, match=f"a list of DomainBatch, not {found}: let the"):
        domains_of(batch)


def test_plain_batches_in_fit(make_brain):
    brain = make_brain(torch.nn.Linear(3, 1), lambda model, x: model(x).mean())
    with pytest.raises(TypeError, match=r"DomainBatch\(domain, \(batch,\)\)"):
        brain.fit([1], [torch.rand(4, 3)])


def test_a_misspelling_beside_the_right_key():
    with pytest.raises(ValueError, match="local_step: .* did you mean local_steps"):
        brain_settings({"local_steps": 0, "local_step": 1})


def test_a_phase_without_epochs():
    with pytest.raises(InputError, match="CSSL.1: .*\n  epochs: -1 is not an integer"):
        Phase("CSSL.1", None, -1, 0.1)


def test_ptloc_on_one_domain():
    phases = [Phase("PTLOC.1", None, 9, 0.1, local_steps=1)]
    alone, several = (
        doubts_of(dict.fromkeys(domains, EVEN), 20, phases)
        for domains in (["en"], ["en", "fr"])
    )
    (doubt,) = alone
    assert "PTLOC on a single domain" in doubt and several == []


def test_the_folder_of_a_run_in_debug_mode(tmp_path):
    (tmp_path / "1/debug/PTLOC.1").mkdir(parents=True)
    folder = tmp_path / "1/PTLOC.1"
    assert missing(folder).endswith(f"is {tmp_path}/1/debug/PTLOC.1")


def test_a_manifest_without_its_root(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("ID,wav\na,{data_root}/a.wav\n")
    args = Namespace(files=[], manifest=str(path), data_root="", channels="mean")
    with pytest.raises(InputError, match="give --data_root"):
        recordings(args)
