"""3. First-order MAML by libraries, compared with ours: time, memory, hypergradient.

One iteration is the same for all: K steps of SGD from θ on each domain, the gradient at
φ_K averaged over the domains, clipping, AdamW. Features, masks and labels are prepared
beforehand, and one module computes the loss, so that only the way from θ to φ_K and back
differs. Each library is used as in its own documentation or examples:

- learn2learn: ``MAML(first_order=True)``, ``clone`` and ``adapt``.
- higher: ``innerloop_ctx(track_higher_grads=False)`` and the gradient with respect to the
  fast weights, as its authors recommend for first order (its issue 63).
- TorchOpt documents second-order MAML only, by ``MetaSGD`` and ``recover_state_dict``
  (``examples/few-shot``). That is compared with our exact hypergradient; first order
  combines ``extract_state_dict(by="deepcopy")`` with its plain ``SGD``.
- by hand: a loop over ``copy.deepcopy(model)``, without any library.

The libraries are not dependencies of this project; the Makefile installs them. The C code
that learn2learn 0.2.0 ships does not compile on Python ≥ 3.11, but its ``setup.py``
regenerates it with pip's ``--config-settings=--build-option=build_ext``.

A library that does not import or run is listed with its error; if pip could not install
it, with the last error of pip's output in ``results/bench/<library>.error``.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import speechbrain as sb
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hetero_brain import DomainBatch, HeteroBrain

from . import models, speech
from .measure import Table, alternate, in_new_process, peak_allocated, ratios, spread

ERRORS = Path("results/bench")
DOMAINS, LOCAL_RATE, MAX_GRAD_NORM = 3, 0.03, 10.0
UTTERANCE = 3.0  # approximate length of an utterance in seconds
LOCAL_SGD = partial(torch.optim.SGD, lr=LOCAL_RATE)


# ------------------------------------------------------------ shared by all candidates


class MaskedPrediction(torch.nn.Module):
    """The loss of our BEST-RQ Brain on prepared inputs."""

    def __init__(self, encoder, output):
        super().__init__()
        self.encoder, self.output = encoder, output

    def forward(self, noisy, lengths, masked, labels):
        """Mean cross-entropy on the outputs of ``BestRQBrain.prepared``."""
        encoded, _ = self.encoder(noisy, lengths)
        logits = self.output(encoded.flatten(0, 1)[masked])
        logits = logits.unflatten(-1, (labels.shape[-1], -1))
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class PreparedBrain(HeteroBrain):
    """Trains a module that maps a batch, a tuple of tensors, to its loss."""

    def compute_forward(self, batch, stage):
        """The loss."""
        return self.modules.model(*batch)

    def compute_objectives(self, predictions, batch, stage):
        """What ``compute_forward`` returned."""
        return predictions


def prepared(size, seconds, device="cpu"):
    """A model of a size, and inputs of about ``seconds`` of speech for each domain."""
    brain = models.ours(size, device=device)
    batches = [
        brain.prepared(speech.batch(seconds, i, like=UTTERANCE), sb.Stage.TRAIN)
        for i in range(DOMAINS)
    ]
    return MaskedPrediction(brain.modules.encoder, brain.modules.output), batches


def accumulate(model, grads):
    """Add gradients to ``.grad``."""
    for param, grad in zip(model.parameters(), grads):
        if grad is not None:
            param.grad = grad if param.grad is None else param.grad.add_(grad)


def global_step(optimizer):
    """SpeechBrain's optimizer step with the gradients in ``.grad``."""
    params = optimizer.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM)
    optimizer.step()
    optimizer.zero_grad()


# ---------------------------------------------------------------- candidates
# Each takes (model, optimizer, local_steps) and returns the iteration, a function of the
# domains' batches.


def ours(model, optimizer, local_steps, hypergradient="first_order"):
    """``HeteroBrain.fit_batch``."""
    hparams = {
        "local_steps": local_steps,
        "local_optimizer": LOCAL_SGD,
        "hypergradient": hypergradient,
        "max_grad_norm": MAX_GRAD_NORM,
    }
    run_opts = {"device": str(next(model.parameters()).device)}
    brain = PreparedBrain({"model": model}, lambda _: optimizer, hparams, run_opts)
    brain.on_fit_start()

    def iteration(batches):
        brain.fit_batch([DomainBatch(str(i), (b,)) for i, b in enumerate(batches)])

    return iteration


def by_hand(model, optimizer, local_steps):
    """A deep copy for each domain."""

    def iteration(batches):
        for inputs in batches:
            phi = copy.deepcopy(model)
            local = LOCAL_SGD(phi.parameters())
            for _ in range(local_steps):
                phi(*inputs).backward()
                local.step()
                local.zero_grad()
            (phi(*inputs) / len(batches)).backward()
            accumulate(model, [param.grad for param in phi.parameters()])
        global_step(optimizer)

    return iteration


def learn2learn(model, optimizer, local_steps):
    """``MAML(first_order=True)``."""
    from learn2learn.algorithms import MAML

    maml = MAML(model, lr=LOCAL_RATE, first_order=True)

    def iteration(batches):
        for inputs in batches:
            phi = maml.clone()
            for _ in range(local_steps):
                phi.adapt(phi(*inputs))
            (phi(*inputs) / len(batches)).backward()
        global_step(optimizer)

    return iteration


def higher(model, optimizer, local_steps):
    """``innerloop_ctx``, with the gradient at the fast weights."""
    from higher import innerloop_ctx

    local = LOCAL_SGD(model.parameters())
    options = {"copy_initial_weights": False, "track_higher_grads": False}

    def iteration(batches):
        for inputs in batches:
            with innerloop_ctx(model, local, **options) as (phi, stepper):
                for _ in range(local_steps):
                    stepper.step(phi(*inputs))
                loss = phi(*inputs) / len(batches)
                accumulate(model, torch.autograd.grad(loss, list(phi.parameters())))
        global_step(optimizer)

    return iteration


def torchopt_sgd(model, optimizer, local_steps):
    """Puts copies into the model, takes plain ``torchopt.SGD`` steps, puts θ back."""
    import torchopt

    theta = torchopt.extract_state_dict(model, by="reference")

    def iteration(batches):
        for inputs in batches:
            copies = torchopt.extract_state_dict(model, by="deepcopy")
            torchopt.recover_state_dict(model, copies)
            local = torchopt.SGD(model.parameters(), lr=LOCAL_RATE)
            for _ in range(local_steps):
                model(*inputs).backward()
                local.step()
                local.zero_grad(set_to_none=True)
            (model(*inputs) / len(batches)).backward()
            grads = [param.grad for param in model.parameters()]
            torchopt.recover_state_dict(model, theta)
            accumulate(model, grads)
        global_step(optimizer)

    return iteration


def torchopt_metasgd(model, optimizer, local_steps):
    """Second order: ``MetaSGD``, with one backward pass per domain to save memory."""
    import torchopt

    local = torchopt.MetaSGD(model, lr=LOCAL_RATE)
    theta = torchopt.extract_state_dict(model, by="reference", detach_buffers=True)
    start = torchopt.extract_state_dict(local, by="reference")

    def iteration(batches):
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            for inputs in batches:
                for _ in range(local_steps):
                    local.step(model(*inputs))
                (model(*inputs) / len(batches)).backward()
                torchopt.recover_state_dict(model, theta)
                torchopt.recover_state_dict(local, start)
        global_step(optimizer)

    return iteration


def passes_alone(model, optimizer, local_steps):
    """As many passes, all at θ: not MAML, but a lower limit for all others."""

    def iteration(batches):
        for inputs in batches:
            for _ in range(local_steps + 1):
                (model(*inputs) / len(batches)).backward()
        global_step(optimizer)

    return iteration


@dataclass(frozen=True)
class Candidate:
    """One way to compute an iteration.

    Attributes
    ----------
    build : callable
        (model, optimizer, local_steps) → the iteration, a function of batches.
    library : str
        Library that it imports; empty for none.
    reference : str
        Name of the candidate to compare it with.
    solves : bool
        Whether it goes from θ to φ_K, so that its hypergradient can be compared.
    """

    build: Callable
    library: str = ""
    reference: str = "ours"
    solves: bool = True


CANDIDATES = {
    "ours": Candidate(ours),
    "by hand, deepcopy": Candidate(by_hand),
    "learn2learn": Candidate(learn2learn, "learn2learn"),
    "higher": Candidate(higher, "higher"),
    "TorchOpt SGD": Candidate(torchopt_sgd, "torchopt"),
    "the passes alone": Candidate(passes_alone, solves=False),
    "ours, exact": Candidate(partial(ours, hypergradient="exact"), "", "ours, exact"),
    "TorchOpt MetaSGD, exact": Candidate(torchopt_metasgd, "torchopt", "ours, exact"),
}


# ------------------------------------------------------------------ measurements


def hypergradient(candidate, model, batches, local_steps):
    """The mean gradient that a candidate passes to the optimizer.

    Arguments
    ---------
    candidate : Candidate
        The way to compute it.
    model : torch.nn.Module
        Maps the tensors of a batch to its loss. Not changed.
    batches : list of tuple
        One for each domain.
    local_steps : int
        K.

    Returns
    -------
    torch.Tensor
        Flat.
    """
    model = copy.deepcopy(model)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1), []

    def keep(*_):
        found.extend(param.grad.flatten().clone() for param in model.parameters())

    optimizer.register_step_pre_hook(keep)
    candidate.build(model, optimizer, local_steps)(batches)
    return torch.cat(found)


def try_out(names, model, batches, local_steps):
    """The hypergradients of some candidates, or why there is none.

    Returns
    -------
    gradients : dict
        Name → tensor.
    errors : dict
        Name → text.
    """
    gradients, errors = {}, {}
    for name in names:
        candidate = CANDIDATES[name]
        try:
            gradients[name] = hypergradient(candidate, model, batches, local_steps)
        except Exception as error:  # a library may raise anything
            if not candidate.library:
                raise
            errors[name] = explain(candidate.library, error)
    return gradients, errors


def explain(library, error):
    """An error in one line; if the library is not installed, the last error of pip."""
    pip_output = ERRORS / f"{library}.error"
    if isinstance(error, ModuleNotFoundError) and pip_output.exists():
        lines = pip_output.read_text(encoding="utf-8").splitlines()
        if errors := [line.strip() for line in lines if "error" in line.lower()]:
            return f"not installed: {errors[-1]}"
    return f"{type(error).__name__}: {error}".strip().split("\n")[-1]


def seconds(names, model, batches, local_steps, rounds):
    """Seconds of an iteration, in interleaved rounds: name → list.

    All on one copy of the model: the speed of equal copies depends on where they are in
    memory.
    """
    device = next(model.parameters()).device
    iterations, model = {}, copy.deepcopy(model)
    for name in names:
        optimizer = models.OPTIMIZER(model.parameters())
        iteration = CANDIDATES[name].build(model, optimizer, local_steps)
        iterations[name] = partial(iteration, batches)
    return alternate(iterations, rounds, device=device)


def compare(names, model, batches, local_steps, rounds):
    """Rows of candidates: name, K, seconds, ratio, difference of hypergradients.

    Arguments
    ---------
    names : list of str
        The candidates, including those that they are compared with.
    model : torch.nn.Module
        Maps the tensors of a batch to its loss.
    batches : list of tuple
        One for each domain.
    local_steps : int
        K.
    rounds : int
        Rounds of the timing.
    """
    gradients, errors = try_out(names, model, batches, local_steps)
    times = seconds(gradients, model, batches, local_steps, rounds)
    rows = []
    for name in names:
        if name in errors:
            rows.append([name, local_steps, errors[name], "-", "-"])
            continue
        to = CANDIDATES[name].reference
        difference = (gradients[name] - gradients[to]).abs().max()
        difference = f"{difference / gradients[to].abs().max():.1g}"
        if not CANDIDATES[name].solves:
            difference = "-"
        ratio = spread(ratios(times[name], times[to]))
        rows.append([name, local_steps, spread(times[name]), ratio, difference])
    return rows


def peak(name, size, seconds, local_steps, device):
    """Peak memory of two iterations of a candidate; for a process of its own.

    Returns
    -------
    peak : int
        Bytes above model and inputs.
    params : int
        Bytes of the parameters.
    """
    torch.set_num_threads(1)  # two candidates run at a time
    build = CANDIDATES[name].build

    def iterate(model, batches):
        iteration = build(model, models.OPTIMIZER(model.parameters()), local_steps)
        for _ in range(2):
            iteration(batches)

    iterate(*prepared("mini", 1.0, device))  # loads libraries and kernels
    model, batches = prepared(size, seconds, device)
    params = sum(param.nbytes for param in model.parameters())
    return peak_allocated(device, lambda: iterate(model, batches)), params


def memory_rows(names, size, seconds, local_steps, device):
    """Rows: name, K, peak in MB, peak in copies of the parameters, ratio to the first."""

    def measure(name):
        return in_new_process(peak, name, size, seconds, local_steps, device)

    with ThreadPoolExecutor(2) as pool:
        peaks = list(pool.map(measure, names))
    return [
        [name, local_steps, top / 1e6, top / params, top / peaks[0][0]]
        for name, (top, params) in zip(names, peaks)
    ]


def run(quick, device="cpu"):
    """Time and hypergradients with the size tiny, memory with base.

    ``device`` is where the models are and compute.
    """
    length, rounds = (2, 2) if quick else (16, 4)
    smaller, size = quick or "tiny", quick or "base"
    first_order = [name for name, c in CANDIDATES.items() if c.reference == "ours"]
    exact = [name for name in CANDIDATES if name not in first_order]
    times = Table(
        "MAML by libraries: time and hypergradient "
        f"({smaller}, {DOMAINS} domains of {length} s)",
        ["", "K", "s / iteration", "ratio to ours", "hypergradient, difference"],
        notes=[
            "Median [interquartile range] of interleaved rounds; ratios are taken within "
            "a round.",
            "Difference: largest absolute difference from our hypergradient, divided by "
            "its largest entry, in fp32.",
            "Exact is second order, and is compared with our exact one.",
            "The passes alone take no local step: a lower limit for first order.",
        ],
    )
    model, batches = prepared(smaller, length, device)
    times.rows += compare(first_order, model, batches, 1, rounds)
    if not quick:
        times.rows += compare(first_order, model, batches, 3, rounds)
    for local_steps in (1,) if quick else (1, 3):
        times.rows += compare(exact, model, batches, local_steps, rounds)
    ran = {row[0] for row in times.rows if row[-2] != "-"}
    memory = Table(
        f"MAML by libraries: peak memory ({size}, {DOMAINS} domains of 3 s)",
        ["", "K", "MB", "copies of the parameters", "ratio to ours"],
        notes=[
            "Above the memory of model and inputs. AdamW's state takes 2 copies of the "
            "parameters, the mean gradient 1."
        ],
    )
    compared = (
        [(first_order, 1)] if quick else [(first_order, 3), (exact, 1), (exact, 3)]
    )
    for names, local_steps in compared:
        names = [name for name in names if name in ran]
        if quick:  # each process would import its library, which takes longest
            names = [name for name in names if not CANDIDATES[name].library]
        memory.rows += memory_rows(names, size, UTTERANCE, local_steps, device)
    return [times, memory]
