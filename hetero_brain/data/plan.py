"""Which utterances form global batch t: a pure function of (seed, t).

Knows nothing of audio, files or torch: durations in, row numbers out.
"""

from typing import NamedTuple

import numpy as np

from ..training.rng import generator

# Utterances are sorted by duration times 1 to 1 + JITTER. More makes the batches of two
# epochs differ more, and pads more: by about half of it in a large domain.
JITTER = 0.08


class DomainRows(NamedTuple):
    """The rows of one unit of a global batch: a domain, or a replica of it.

    Attributes
    ----------
    domain : str
        The domain's name.
    batches : tuple of np.ndarray
        ``batches_per_iteration`` int64 arrays of row numbers, no row twice.
    """

    domain: str
    batches: tuple


class Plan:
    r"""The global batches of a run, ``plan[t]`` for t = 0, 1, 2, … without end.

    Each epoch cuts every domain afresh into batches of utterances of like length. With
    :math:`h_i` the audio of domain i, M domains and m of them an iteration, one batch
    of domain i holds about

    .. math:: b_i = \frac{M}{m R} \frac{w_i}{\sum_j w_j} \, B
        \qquad w_i = h_i^{1/T}

    seconds, where B is ``global_batch_seconds`` and R ``replicas_per_domain``, and there
    are
    :math:`n_i = \max(1, \lfloor h_i / b_i \rfloor)` of them, or as many as the domain
    has utterances if that is fewer. T is 1 for ``proportional`` and infinite for
    ``equal``. An epoch ends with the domain that has the fewest batches; the others
    skip some, at random and other ones each epoch. So an utterance is seen at most once
    an epoch.

    Padding, 1 - (audio / padded audio), stays under 10 % in a domain of 25 batches an
    epoch or more, also where lengths go from 0.3 s to 20 s. A small domain of such
    lengths cut into 10 batches pads up to 20 %, as each must hold short and long ones
    (the cut that pads least has 11 to 14). Lengths from 10 s to 16 s pad 4 % even then.

    Arguments
    ---------
    durations : array_like of float, shape (N,)
        Length of each utterance, in seconds.
    domain_of : array_like of int, shape (N,)
        The domain of each utterance, an index into ``domains``.
    domains : sequence of str
        The M domain names. Batches are drawn by a domain's name, not by its index.
    global_batch_seconds : float
        B: audio in one batch from each unit of an iteration, on average, in seconds.
    seed : int
        Other seeds give other batches.
    domain_sampling : str
        ``proportional`` (to the hours of a domain), ``equal`` or ``temperature``.
    temperature : float
        T for ``temperature``: 1 is proportional, more is nearer to equal.
    domains_per_iteration : int, optional
        m: how many domains an iteration has, all by default. They are drawn so that
        the counts of any two domains differ by one at most at any point of an epoch.
    batches_per_iteration : int
        Batches from each domain of an iteration, each of :math:`b_i` seconds: 1, or K+1
        for a fresh one at each local step and for the hypergradient.
    replicas_per_domain : int
        R: units of each domain in an iteration, each with batches of its own, so that
        more ranks than domains can share an iteration. B stays what it is.
    max_utterance_seconds : float, optional
        Longer utterances count as this long, since a window of it is what gets read.

    Raises
    ------
    ValueError
        For any wrong argument, naming each; for a domain without utterances; for one
        with fewer batches than ``batches_per_iteration``.

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
        n_domains = len(domains)
        if domains_per_iteration is None:
            domains_per_iteration = n_domains
        if max_utterance_seconds is None:
            max_utterance_seconds = np.inf
        _raise_if_any(
            _wrong_settings(
                n_domains,
                global_batch_seconds,
                domain_sampling,
                temperature,
                domains_per_iteration,
                batches_per_iteration,
                replicas_per_domain,
                max_utterance_seconds,
            )
            + _wrong_rows(durations, domain_of, domains)
        )
        # Small integers, which NumPy sorts in linear time.
        domain_of = domain_of.astype(np.min_scalar_type(n_domains))
        sizes = np.bincount(domain_of, minlength=n_domains)

        self.domains = tuple(domains)
        self.seed = seed
        self.domains_per_iteration = domains_per_iteration
        self.batches_per_iteration = batches_per_iteration
        self.replicas_per_domain = replicas_per_domain

        # The rows of domain i are _rows[_parts[i]].
        ends = np.cumsum(sizes)
        self._parts = [slice(end - size, end) for end, size in zip(ends, sizes)]
        self._rows = np.argsort(domain_of, kind="stable").astype(np.int32)
        self._durations = durations[self._rows]
        np.minimum(self._durations, max_utterance_seconds, out=self._durations)

        seconds = np.add.reduceat(self._durations, ends - sizes, dtype=np.float64)
        exponent = {"proportional": 1.0, "equal": 0.0}.get(
            domain_sampling, 1 / temperature
        )
        weights = (seconds / seconds.sum()) ** exponent
        # m domains of average weight make up a global batch.
        batch_seconds = (
            global_batch_seconds * weights / (weights.mean() * self.units_per_iteration)
        )
        # A count that is whole but for rounding must not lose a batch.
        n_batches = np.floor(seconds / batch_seconds * (1 + 1e-9))
        self._n_batches = np.clip(n_batches, 1, sizes).astype(np.int64)

        needed = batches_per_iteration * replicas_per_domain
        turns = self._n_batches // needed
        _raise_if_any(
            f"batches_per_iteration: {name} has {n} batches an epoch of "
            f"{seconds_of:.1f} s each, fewer than {needed}; lower "
            f"global_batch_seconds ({global_batch_seconds}), batches_per_iteration or "
            f"replicas_per_domain, or leave the domain out"
            for name, n, seconds_of, turn in zip(
                domains, self._n_batches, batch_seconds, turns
            )
            if turn == 0
        )
        self.steps_per_epoch = int(turns.min()) * n_domains // domains_per_iteration
        self._cache = (None, None)

    def __getitem__(self, step):
        """The rows of global batch ``step``, whatever was asked for before.

        Arguments
        ---------
        step : int
            From 0, going on across epochs.

        Returns
        -------
        list of DomainRows
            ``replicas_per_domain`` units, one behind the other, for each domain of the
            iteration, in the order of ``domains``.

        Raises
        ------
        IndexError
            If ``step`` is negative.
        """
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._cache[0] != epoch:
            cuts = [self._cut(epoch, i) for i in range(len(self.domains))]
            self._cache = epoch, (*self._draw_domains(epoch), cuts)
        drawn, turns, cuts = self._cache[1]

        k, replicas = self.batches_per_iteration, self.replicas_per_domain
        global_batch = []
        for i, turn in zip(drawn[step_in_epoch], turns[step_in_epoch]):
            order, edges, shuffle = cuts[i]
            rows = self._rows[self._parts[i]]
            for replica in range(replicas):
                first = k * (replicas * turn + replica)
                batches = tuple(
                    rows[order[edges[j] : edges[j + 1]]].astype(np.int64)
                    for j in shuffle[first : first + k]
                )
                global_batch.append(DomainRows(self.domains[i], batches))
        return global_batch

    @property
    def units_per_iteration(self):
        """Local solves of an iteration: what ranks can share."""
        return self.domains_per_iteration * self.replicas_per_domain

    def __getstate__(self):
        """Leave the cached epoch out: a loader worker computes its own."""
        return {**self.__dict__, "_cache": (None, None)}

    def summary(self, epoch=0):
        """What an epoch takes from each domain, for the log.

        Arguments
        ---------
        epoch : int
            From 0; epochs differ in padding, and by a batch in what is skipped.

        Returns
        -------
        dict of str to dict
            For each domain ``hours`` (of audio), ``batches`` (cut in an epoch),
            ``batch_seconds`` (their mean audio), ``skipped`` (the share of them that
            the epoch leaves out) and ``padding`` (1 - audio / padded audio).
        """
        drawn, _ = self._draw_domains(epoch)
        turns = np.bincount(drawn.ravel(), minlength=len(self.domains))
        taken = self.batches_per_iteration * self.replicas_per_domain
        table = {}
        for i, domain in enumerate(self.domains):
            order, edges, _ = self._cut(epoch, i)
            durations = self._durations[self._parts[i]][order]
            seconds = durations.sum(dtype=np.float64)
            longest = np.maximum.reduceat(durations, edges[:-1])
            n_batches = len(longest)
            table[domain] = {
                "hours": seconds / 3600,
                "batches": n_batches,
                "batch_seconds": seconds / n_batches,
                "skipped": 1 - turns[i] * taken / n_batches,
                "padding": 1 - seconds / np.dot(longest, np.diff(edges)),
            }
        return table

    def _draw_domains(self, epoch):
        """The domains of each step of ``epoch``.

        Returns
        -------
        drawn : np.ndarray of int, shape (steps_per_epoch, domains_per_iteration)
            Domain codes, ascending in a row.
        turns : np.ndarray of int, same shape
            How often the domain was drawn before in this epoch.
        """
        n_domains, n_drawn = len(self.domains), self.domains_per_iteration
        shape = (self.steps_per_epoch, n_drawn)
        if n_drawn == n_domains:
            turns, drawn = np.indices(shape, np.int32)
            return drawn, turns
        rng = generator(self.seed, "domains", epoch)
        drawn, turns = np.empty(shape, np.int32), np.empty(shape, np.int32)
        counts = np.zeros(n_domains, np.int32)
        for step in range(self.steps_per_epoch):
            # The least drawn so far, at random among equals.
            least = np.argsort(counts + rng.random(n_domains))[:n_drawn]
            drawn[step] = np.sort(least)
            turns[step] = counts[drawn[step]]
            counts[least] += 1
        return drawn, turns

    def _cut(self, epoch, i):
        """Cut domain ``i`` into its batches of ``epoch``.

        Returns
        -------
        order : np.ndarray of int32, shape (utterances of the domain,)
            Its utterances, by length.
        edges : np.ndarray of int, shape (n_i + 1,)
            Batch j is ``order[edges[j]:edges[j + 1]]``.
        shuffle : np.ndarray of int, shape (n_i,)
            The batches as they are taken; those left at the end are skipped.
        """
        durations = self._durations[self._parts[i]]
        n_utterances, n_batches = len(durations), self._n_batches[i]
        rng = generator(self.seed, "batches", epoch, self.domains[i])

        # 1. Sort by length, but not quite. A product, where a logarithm could round
        #    differently on another machine; stable, so that ties cannot either.
        key = durations * (1 + JITTER * rng.random(n_utterances))
        order = np.argsort(key, kind="stable").astype(np.int32)

        # 2. Cut into equal seconds: an utterance goes where its middle falls.
        durations = durations[order]
        ends = durations.cumsum(dtype=np.float64)
        inner = np.arange(1, n_batches)
        cuts = np.searchsorted(ends - durations / 2, ends[-1] * inner / n_batches)

        # 3. Leave no batch empty, also where an utterance is longer than a batch: cut j
        #    has at least j utterances before it, and one for each batch after it.
        slack = np.maximum.accumulate(cuts - inner)
        cuts = inner + np.clip(slack, 0, n_utterances - n_batches)

        edges = np.concatenate(([0], cuts, [n_utterances]))
        return order, edges, rng.permutation(n_batches)


def _wrong_settings(
    n_domains,
    global_batch_seconds,
    domain_sampling,
    temperature,
    domains_per_iteration,
    batches_per_iteration,
    replicas_per_domain,
    max_utterance_seconds,
):
    """What is wrong with the settings of a plan: texts that begin with the key."""
    samplings = ("proportional", "equal", "temperature")
    wrong = {
        f"global_batch_seconds: must be positive, got {global_batch_seconds}": (
            not global_batch_seconds > 0
        ),
        f"domain_sampling: must be one of {', '.join(samplings)}, "
        f"got {domain_sampling!r}": domain_sampling not in samplings,
        f"temperature: must be positive, got {temperature}": not temperature > 0,
        f"temperature: must be 1.0 unless domain_sampling is 'temperature', "
        f"got {temperature}": (
            temperature > 0 and temperature != 1 and domain_sampling != "temperature"
        ),
        f"domains_per_iteration: must be from 1 to {n_domains}, the number of "
        f"domains, got {domains_per_iteration}": (
            domains_per_iteration not in range(1, n_domains + 1)
        ),
        f"batches_per_iteration: must be 1 or more, got {batches_per_iteration}": (
            not batches_per_iteration >= 1
        ),
        f"replicas_per_domain: must be 1 or more, got {replicas_per_domain}": (
            not replicas_per_domain >= 1
        ),
        f"max_utterance_seconds: must be positive, got {max_utterance_seconds}": (
            not max_utterance_seconds > 0
        ),
    }
    return [text for text, is_wrong in wrong.items() if is_wrong]


def _wrong_rows(durations, domain_of, domains):
    """What is wrong with the utterances of a plan: texts that begin with the argument."""
    faults = []
    if len(set(domains)) < len(domains):
        faults.append(f"domains: a name is there twice in {list(domains)}")
    if not np.all((durations > 0) & (durations < np.inf)):
        faults.append("durations: must be positive and finite")
    if domain_of.shape != durations.shape or durations.ndim != 1:
        faults.append(
            f"domain_of: must have one code for each of durations, got shapes "
            f"{domain_of.shape} and {durations.shape}"
        )
    elif not np.all((domain_of >= 0) & (domain_of < len(domains))):
        faults.append(f"domain_of: codes must be from 0 to {len(domains) - 1}")
    elif missing := set(range(len(domains))) - set(np.unique(domain_of).tolist()):
        names = ", ".join(domains[i] for i in sorted(missing))
        faults.append(f"domains: no utterances in {names}")
    return faults


def _raise_if_any(faults):
    """Raise one ValueError that lists all ``faults``, if there are any."""
    faults = list(faults)
    if faults:
        raise ValueError("\n".join(faults))
