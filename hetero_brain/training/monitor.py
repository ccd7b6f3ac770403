"""Per-domain figures of training, averaged between two log entries."""

from collections import Counter, defaultdict
from itertools import combinations

import torch

from .gram import gram
from .parallel import gathered


class DomainMonitor:
    """Averages per-domain figures over the iterations since the last log entry.

    Each rank records its own units; :meth:`pop` and :meth:`cosines` combine those of all
    ranks, so every rank must call them.

    Example
    -------
    >>> monitor = DomainMonitor()
    >>> monitor.add("en", loss_at_theta=3.0, loss_at_phi=2.5)
    >>> monitor.add("fr", loss_at_theta=4.0, loss_at_phi=3.0)
    >>> monitor.pop()["loss_at_phi/en"]
    2.5
    """

    def __init__(self):
        self.sums = defaultdict(float)
        self.counts = defaultdict(int)
        self.dropped = defaultdict(int)
        self.gradients, self.kept_in = {}, None  # domain → vector; of which iteration

    def add(self, domain, **figures):
        """Add one iteration's figures of a domain, or of all of them together if that is
        None: floats, or 0-dimensional tensors."""
        for name, value in figures.items():
            self.sums[name, domain] += value
            self.counts[name, domain] += 1

    def add_solve(self, domain, passes):
        """Add a local solve: (loss, gradient norm) of each pass, from θ to φ_K. With
        K = 0, where θ is all there is, its one pass has a loss and a gradient."""
        (first, _), (last, norm) = passes[0], passes[-1]
        if len(passes) == 1:
            self.add(domain, loss=last, gradient_norm=norm)
        else:
            self.add(
                domain,
                loss_at_theta=first,
                loss_at_phi=last,
                local_gain=first - last,
                hypergradient_norm=norm,
            )

    def drop(self, domain):
        """Count an iteration in which a domain was left out."""
        self.dropped[domain] += 1

    def keep_gradient(self, domain, grads, params, iteration):
        """Keep a hypergradient of a domain, in host memory, for :meth:`cosines`.

        Those of its replicas in an iteration are added up. A parameter without a gradient
        counts as zeros, so that all domains line up.
        """
        if iteration != self.kept_in:
            self.gradients, self.kept_in = {}, iteration
        dense = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params)]
        vector = torch.cat([g.flatten().float() for g in dense]).cpu()
        if domain in self.gradients:
            vector += self.gradients[domain]
        self.gradients[domain] = vector

    def cosines(self, device="cpu"):
        """Pairwise cosines of the hypergradients of the domains in an iteration.

        Arguments
        ---------
        device : torch.device or str
            Where to compute them.

        Returns
        -------
        dict
            ``cosine/a~b`` → float; without domains whose hypergradient is zero, as where
            it was not finite.
        """
        own, self.gradients = self.gradients, {}
        length = max(map(len, own.values()), default=0)
        of_ranks = gathered((list(own), length))
        most = max(len(names) for names, _ in of_ranks)
        length = max(length for _, length in of_ranks)
        dots = gram([*own.values()], most, length, device)
        # A domain is the sum of its replicas, which several ranks may have.
        domains = sorted({name for names, _ in of_ranks for name in names})
        shares = dots.new_zeros(len(domains), len(dots))
        for rank, (names, _) in enumerate(of_ranks):
            for i, name in enumerate(names, start=rank * most):
                shares[domains.index(name), i] = 1
        dots = shares @ dots @ shares.T
        norms = dots.diagonal().sqrt()
        cosines = (dots / norms / norms[:, None]).clamp(-1, 1)
        return {
            f"cosine/{domains[i]}~{domains[j]}": cosines[i, j].item()
            for i, j in combinations(range(len(domains)), 2)
            if norms[i] and norms[j]
        }

    def mean(self, name):
        """Mean over domains of each domain's mean of a figure; NaN if there is none."""
        means = [
            float(total) / self.counts[figure, domain]
            for (figure, domain), total in self.sums.items()
            if figure == name and domain is not None
        ]
        return sum(means) / len(means) if means else float("nan")

    def state(self):
        """What was recorded since the last entry, to save between two iterations."""
        sums = {key: float(total) for key, total in self.sums.items()}  # exact
        return {"sums": sums, "counts": {**self.counts}, "dropped": {**self.dropped}}

    def restore(self, states):
        """Replace what was recorded by the sum of some states: this rank's own, or those
        of all ranks of an earlier run."""
        for name in ("sums", "counts", "dropped"):
            total = getattr(self, name)
            total.clear()
            for state in states:
                for key, value in state[name].items():
                    total[key] += value

    def pop(self):
        """All figures as ``name/domain`` → float, and as ``name`` those of all domains
        together; clears them."""
        sums, counts, dropped = Counter(), Counter(), Counter()
        floats = {key: float(total) for key, total in self.sums.items()}
        for own in gathered((floats, dict(self.counts), dict(self.dropped))):
            for total, of_rank in zip((sums, counts, dropped), own):
                total.update(of_rank)
        self.sums.clear(), self.counts.clear(), self.dropped.clear()
        entry = {
            name if domain is None else f"{name}/{domain}": total / counts[name, domain]
            for (name, domain), total in sums.items()
        }
        return {**entry, **{f"dropped/{d}": float(n) for d, n in dropped.items()}}
