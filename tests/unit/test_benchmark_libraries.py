"""The benchmark against meta-learning libraries: equal hypergradients, named failures."""

import sys

import pytest
import torch

from tests.benchmarks import libraries
from tests.benchmarks.libraries import CANDIDATES, LOCAL_RATE


class Regression(torch.nn.Module):
    """A batch, (inputs, targets), to its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
        self.layers = torch.nn.Sequential(*layers).double()

    def forward(self, x, y):
        return (self.layers(x) - y).square().mean()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    inputs = torch.randn(2, 8, 4, dtype=torch.float64)
    return [tuple(domain.split([3, 1], dim=1)) for domain in inputs]


def by_autograd(model, batches, local_steps, exact):
    """The mean gradient at φ_K, by autograd on functions of the parameters alone."""
    names, theta = zip(*model.named_parameters())
    mean = [torch.zeros_like(param) for param in theta]
    for batch in batches:

        def loss(params, batch=batch):
            named = dict(zip(names, params))
            return torch.func.functional_call(model, named, batch)

        phi = theta
        for _ in range(local_steps):
            grads = torch.autograd.grad(loss(phi), phi, create_graph=exact)
            phi = [p - LOCAL_RATE * g for p, g in zip(phi, grads)]
        at = theta if exact else phi
        for total, grad in zip(mean, torch.autograd.grad(loss(phi), at)):
            total += grad / len(batches)
    return torch.cat([grad.flatten() for grad in mean])


SOLVERS = [name for name, candidate in CANDIDATES.items() if candidate.solves]


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("name", SOLVERS)
def test_hypergradient_is_that_of_autograd(name, local_steps, batches):
    candidate = CANDIDATES[name]
    if candidate.library:
        pytest.importorskip(candidate.library)
    found = libraries.hypergradient(candidate, Regression(), batches, local_steps)
    exact = candidate.reference == "ours, exact"
    expected = by_autograd(Regression(), batches, local_steps, exact)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", SOLVERS)
def test_iterations_begin_at_theta_again(name, batches):
    """Two iterations end at the same weights as ours: φ does not stay in the model."""
    ends = []
    for candidate in (CANDIDATES[name], CANDIDATES[CANDIDATES[name].reference]):
        if candidate.library:
            pytest.importorskip(candidate.library)
        model = Regression()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        iteration = candidate.build(model, optimizer, 2)
        for _ in range(2):
            iteration(batches)
        ends.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def test_passes_alone_are_as_many_as_ours_and_all_at_theta(batches):
    candidate = CANDIDATES["the passes alone"]
    found = libraries.hypergradient(candidate, Regression(), batches, 2)
    at_theta = by_autograd(Regression(), batches, 0, exact=False)
    torch.testing.assert_close(found, 3 * at_theta, rtol=1e-12, atol=1e-14)
    names = ["ours", "the passes alone"]
    _, row = libraries.compare(names, Regression(), batches, 1, rounds=1)
    assert float(row[3]) > 0 and row[4] == "-"


def test_library_that_does_not_import_is_a_row_with_its_error(
    batches, monkeypatch, tmp_path
):
    monkeypatch.setattr(libraries, "ERRORS", tmp_path)
    monkeypatch.setitem(sys.modules, "higher", None)
    names = ["ours", "higher"]
    ours, row = libraries.compare(names, Regression(), batches, 1, rounds=1)
    assert row[2].startswith("ModuleNotFoundError: import of higher")
    assert row[3:] == ["-", "-"]
    assert ours[3:] == ["1", "0"]


def test_error_of_an_install_is_given_where_the_library_is_missing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(libraries, "ERRORS", tmp_path)
    (tmp_path / "higher.error").write_text("error: no compiler\n[notice] new pip\n\n")
    (tmp_path / "learn2learn.error").touch()  # installed, but something it needs is not
    missing = ModuleNotFoundError("No module named 'higher'")
    assert libraries.explain("higher", missing) == "not installed: error: no compiler"
    assert libraries.explain("higher", ValueError("a\nb")) == "b"
    for library in ("torchopt", "learn2learn"):
        assert libraries.explain(library, missing).startswith("ModuleNotFoundError")


def test_fault_of_ours_is_not_hidden(batches, monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setitem(CANDIDATES, "ours", libraries.Candidate(broken))
    with pytest.raises(RuntimeError, match="ours"):
        libraries.try_out(["ours"], Regression(), batches, 1)
