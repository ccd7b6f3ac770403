"""Which utterances form global batch t: a pure function of (seed, t).

A plan knows nothing of audio, files or torch: durations go in, row numbers come out.
"""

from typing import NamedTuple

import numpy as np

from ..training.rng import generator
from .bucketing import cut_into_buckets
from .domain_sampling import domain_weights, draw_domains
from .plan_checks import raise_if_any, settings_errors, utterance_errors


class DomainRows(NamedTuple):
    """The rows of one unit of a global batch, which is a domain or a replica of one.

    Attributes
    ----------
    domain : str
        The domain's name.
    batches : tuple of np.ndarray
        ``batches_per_iteration`` int64 arrays of row numbers; no row occurs twice.
    """

    domain: str
    batches: tuple


class Plan:
    r"""The global batches of a run: ``plan[t]`` for t = 0, 1, 2, …, without end.

    In each epoch, every domain is cut anew into batches of utterances of similar length.
    With :math:`h_i` seconds of audio in domain i, and m of M domains in an iteration, a
    batch of domain i holds about

    .. math:: b_i = \frac{M}{m R} \frac{w_i}{\sum_j w_j} \, B
        \qquad w_i = h_i^{1/T}

    seconds, where B is ``global_batch_seconds`` and R is ``replicas_per_domain``. The
    domain then has :math:`n_i = \max(1, \lfloor h_i / b_i \rfloor)` batches, but no
    more than it has utterances. T is 1 for ``proportional`` and infinite for ``equal``.
    An epoch ends when the domain with the fewest batches has none left. The other
    domains skip some of theirs, drawn at random in each epoch. An utterance is thus seen
    at most once per epoch.

    Padding, 1 - (audio / padded audio), stays under 10 % in a domain with 25 or more
    batches per epoch, even where lengths range from 0.3 s to 20 s. A small domain with
    such lengths and only 10 batches has up to 20 % of padding, since each batch must
    hold short and long utterances (the best possible cut has 11 % to 14 %). Lengths from
    10 s to 16 s need no more than 4 % even then.

    Arguments
    ---------
    durations : array_like of float, shape (N,)
        Length of each utterance, in seconds.
    domain_of : array_like of int, shape (N,)
        The domain of each utterance, as an index into ``domains``.
    domains : sequence of str
        The M domain names. The batches of a domain depend on its name, not on its index.
    global_batch_seconds : float
        B: seconds of audio in one batch of every unit of an iteration, added up; an
        average over iterations.
    seed : int
        Different seeds give different batches.
    domain_sampling : str
        ``proportional`` (to the hours of a domain), ``equal`` or ``temperature``.
    temperature : float
        T for ``temperature``: 1 is proportional, higher values are closer to equal.
    domains_per_iteration : int, optional
        m: how many domains an iteration has. Default: all. They are drawn so that the
        counts of any two domains differ by one at most at any point of an epoch.
    batches_per_iteration : int
        Batches of :math:`b_i` seconds from each domain of an iteration: 1, or K+1 to
        have a fresh one for each local step and for the hypergradient.
    replicas_per_domain : int
        R: units of each domain in an iteration, each with batches of its own, so that
        more ranks than domains can share an iteration. B does not change with it.
    max_utterance_seconds : float, optional
        Longer utterances count as this long, since only a window of them is read.

    Raises
    ------
    InputError
        If arguments are wrong, all of which are named; if a domain has no utterances, or
        fewer batches than an iteration takes.

    Example
    -------
    >>> plan = Plan([2.0, 1.0, 1.0, 2.0], [0, 0, 1, 1], ["read", "spontaneous"],
    ...             global_batch_seconds=3.0, seed=1234)
    >>> plan.steps_per_epoch
    2
    >>> [(domain, len(batches[0])) for domain, batches in plan[0]]
    [('read', 1), ('spontaneous', 1)]
    """

    def __init__(
        self,
        durations,
        domain_of,
        domains,
        *,
        global_batch_seconds,
        seed,
        domain_sampling="proportional",
        temperature=1.0,
        domains_per_iteration=None,
        batches_per_iteration=1,
        replicas_per_domain=1,
        max_utterance_seconds=None,
    ):
        durations = np.asarray(durations, dtype=np.float32)
        domain_of = np.asarray(domain_of)
        if domains_per_iteration is None:
            domains_per_iteration = len(domains)
        if max_utterance_seconds is None:
            max_utterance_seconds = np.inf
        errors = settings_errors(
            len(domains),
            global_batch_seconds=global_batch_seconds,
            domain_sampling=domain_sampling,
            temperature=temperature,
            domains_per_iteration=domains_per_iteration,
            batches_per_iteration=batches_per_iteration,
            replicas_per_domain=replicas_per_domain,
            max_utterance_seconds=max_utterance_seconds,
        )
        raise_if_any(errors + utterance_errors(durations, domain_of, domains))

        self.domains = tuple(domains)
        self.seed = seed
        self.domains_per_iteration = domains_per_iteration
        self.batches_per_iteration = batches_per_iteration
        self.replicas_per_domain = replicas_per_domain
        self.max_utterance_seconds = max_utterance_seconds
        self.global_batch_seconds = global_batch_seconds
        self._group_by_domain(durations, domain_of, max_utterance_seconds)
        seconds = np.add.reduceat(
            self._durations, [rows.start for rows in self._slices], dtype=np.float64
        )
        weights = domain_weights(seconds, domain_sampling, temperature)
        self._size_batches(seconds, weights, global_batch_seconds)
        self._cache = (None, None)

    def _group_by_domain(self, durations, domain_of, max_utterance_seconds):
        """Sort the rows by domain: those of domain i are ``_rows[_slices[i]]``."""
        # NumPy sorts small integers in linear time.
        domain_of = domain_of.astype(np.min_scalar_type(len(self.domains)))
        sizes = np.bincount(domain_of, minlength=len(self.domains))
        ends = np.cumsum(sizes)
        self._slices = [slice(end - size, end) for end, size in zip(ends, sizes)]
        self._rows = np.argsort(domain_of, kind="stable").astype(np.int32)
        self._durations = durations[self._rows]
        np.minimum(self._durations, max_utterance_seconds, out=self._durations)

    def _size_batches(self, seconds, weights, global_batch_seconds):
        """Set how many batches each domain has, and how many steps an epoch."""
        # m domains of average weight make up a global batch.
        batch_seconds = (
            global_batch_seconds * weights / (weights.mean() * self.units_per_iteration)
        )
        # A quotient that misses an integer only by rounding must not lose a batch.
        self.possible_batches = seconds / batch_seconds * (1 + 1e-9)
        n_batches = np.floor(self.possible_batches)
        sizes = [rows.stop - rows.start for rows in self._slices]
        self._n_batches = np.clip(n_batches, 1, sizes).astype(np.int64)

        per_draw = self.batches_per_iteration * self.replicas_per_domain
        raise_if_any(
            f"batches_per_iteration: an iteration takes {per_draw} batches of a domain, "
            f"but {name} has only {n} in an epoch, of {of_each:.1f} s each; lower "
            + (f"global_batch_seconds ({global_batch_seconds}), " if n < size else "")
            + "batches_per_iteration or replicas_per_domain, or leave the domain out"
            + ("" if n < size else ", which has no more rows")
            for name, n, of_each, size in zip(
                self.domains, self._n_batches, batch_seconds, sizes
            )
            if n < per_draw
        )
        draws = int((self._n_batches // per_draw).min()) * len(self.domains)
        self.steps_per_epoch = draws // self.domains_per_iteration

    def __getitem__(self, step):
        """The rows of global batch ``step``; it does not depend on earlier calls.

        Arguments
        ---------
        step : int
            Counted from 0 and on across epochs.

        Returns
        -------
        list of DomainRows
            For each domain of the iteration, in the order of ``domains``, its
            ``replicas_per_domain`` units one after the other.

        Raises
        ------
        IndexError
            If ``step`` is negative.
        """
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._cache[0] != epoch:
            buckets = [self._buckets(epoch, i) for i in range(len(self.domains))]
            self._cache = epoch, (*self._draw_domains(epoch), buckets)
        drawn, earlier, buckets = self._cache[1]

        per_unit, replicas = self.batches_per_iteration, self.replicas_per_domain
        global_batch = []
        for i, n_earlier in zip(drawn[step_in_epoch], earlier[step_in_epoch]):
            rows = self._rows[self._slices[i]]
            for replica in range(replicas):
                first = per_unit * (replicas * n_earlier + replica)
                batches = tuple(
                    rows[buckets[i].utterances(j)].astype(np.int64)
                    for j in range(first, first + per_unit)
                )
                global_batch.append(DomainRows(self.domains[i], batches))
        return global_batch

    @property
    def units_per_iteration(self):
        """How many local solves an iteration has, which ranks can share."""
        return self.domains_per_iteration * self.replicas_per_domain

    def __getstate__(self):
        """Leave the cached epoch out: a loader worker computes its own."""
        return {**self.__dict__, "_cache": (None, None)}

    def summary(self, epoch=0):
        """What an epoch takes from each domain, for the log.

        Arguments
        ---------
        epoch : int
            Counted from 0. Epochs differ in padding, and by a batch in what is skipped.

        Returns
        -------
        dict of str to dict
            For each domain ``hours`` (of audio), ``rows``, ``batches`` (in an epoch),
            ``batch_seconds`` (their mean audio), ``skipped`` (the fraction of them that
            the epoch leaves out) and ``padding`` (1 - audio / padded audio).
        """
        drawn, _ = self._draw_domains(epoch)
        n_drawn = np.bincount(drawn.ravel(), minlength=len(self.domains))
        per_draw = self.batches_per_iteration * self.replicas_per_domain
        table = {}
        for i, domain in enumerate(self.domains):
            order, edges, _ = self._buckets(epoch, i)
            durations = self._durations[self._slices[i]][order]
            seconds = durations.sum(dtype=np.float64)
            longest = np.maximum.reduceat(durations, edges[:-1])
            n_batches = len(longest)
            table[domain] = {
                "hours": seconds / 3600,
                "rows": len(durations),
                "batches": n_batches,
                "batch_seconds": seconds / n_batches,
                "skipped": 1 - n_drawn[i] * per_draw / n_batches,
                "padding": 1 - seconds / np.dot(longest, np.diff(edges)),
            }
        return table

    def _draw_domains(self, epoch):
        """The domains of each step of an epoch, as :func:`draw_domains` gives them."""
        rng = generator(self.seed, "domains", epoch)
        return draw_domains(
            len(self.domains), self.domains_per_iteration, self.steps_per_epoch, rng
        )

    def _buckets(self, epoch, i):
        """The batches of domain ``i`` in an epoch."""
        rng = generator(self.seed, "batches", epoch, self.domains[i])
        durations = self._durations[self._slices[i]]
        return cut_into_buckets(durations, self._n_batches[i], rng)
