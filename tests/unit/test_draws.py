"""Data loaders inside of modules give all passes of a local solve the same."""

import random

import pytest
import soundfile
import torch
from speechbrain.augment.time_domain import AddNoise
from torch import nn
from torch.utils.data import DataLoader

from hetero_brain import DomainBatch


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    """A CSV file of three short noises, as ``AddNoise`` reads it."""
    folder = tmp_path_factory.mktemp("noises")
    lines = ["ID,duration,wav,wav_format,wav_opts"]
    for i in range(3):
        wav = torch.randn(80 + i, generator=torch.Generator().manual_seed(i))
        soundfile.write(folder / f"{i}.wav", 0.1 * wav.numpy(), 16000)
        lines.append(f"{i},0.005,{folder}/{i}.wav,wav,")
    (folder / "noises.csv").write_text("\n".join(lines) + "\n")
    return folder / "noises.csv"


def test_noises_are_the_same_in_all_passes_and_taken_once(make_brain, noises):
    first = {}
    for steps in (0, 1, 3):
        torch.manual_seed(1)
        add_noise = AddNoise(noises, sorting="original", snr_high=9)
        seen = []

        def loss(model, wavs, add_noise=add_noise, seen=seen):
            noisy = add_noise(wavs, torch.ones(len(wavs))) * torch.rand(len(wavs), 1)
            seen.append(noisy.sum().item())
            return model(noisy).square().mean()

        brain = make_brain(
            nn.Linear(60, 1), loss, local_lr=0.1, local_steps=steps, noise=add_noise
        )
        for t in range(4):  # of two noises, which three are not a multiple of
            brain.fit_batch([DomainBatch("a", (torch.full((2, 60), t + 1.0),))])
        solves = [seen[i : i + steps + 1] for i in range(0, len(seen), steps + 1)]
        assert all(len({*solve}) == 1 for solve in solves) and len(solves) == 4
        first[steps] = [solve[0] for solve in solves]
        assert first[steps] == first[0] and len({*first[0]}) == 4


class Random:
    """A dataset that draws in the process that reads it."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.rand(1), random.random()


def test_what_a_loader_draws_is_not_drawn_again(make_brain):
    found, batches = [], iter(DataLoader(Random(), 1))

    def loss(model, x):
        (drawn, number), after = next(batches), (torch.rand(1), random.random())
        found.append((drawn.item(), number.item(), after[0].item(), after[1]))
        drawn.zero_()  # in place, as AddNoise scales its noises
        return model(x).square().mean()

    brain = make_brain(nn.Linear(1, 1), loss, local_lr=0.1, local_steps=2)
    for _ in range(2):
        brain.fit_batch([DomainBatch("a", (torch.ones(1, 1),))])
    assert found[0] == found[1] == found[2] != found[3] == found[4] == found[5]
    assert next(batches)  # two of three were taken
    with pytest.raises(StopIteration):
        next(batches)
