"""How much audio a plan takes from each domain, and which domains an iteration has."""

import numpy as np

SAMPLINGS = ("proportional", "equal", "temperature")


def domain_weights(seconds, domain_sampling="proportional", temperature=1.0):
    r"""Weights of the domains in a global batch, not normalised.

    Arguments
    ---------
    seconds : np.ndarray of float, shape (domains,)
        :math:`h_i`: audio of each domain.
    domain_sampling : str
        One of :data:`SAMPLINGS`.
    temperature : float
        T, for ``temperature``.

    Returns
    -------
    np.ndarray of float, shape (domains,)
        :math:`(h_i / \sum_j h_j)^{1/T}`, with T = 1 for ``proportional`` and infinite T
        for ``equal``.

    Example
    -------
    >>> domain_weights(np.array([9.0, 16.0]), "temperature", temperature=2.0)
    array([0.6, 0.8])
    """
    exponents = {"proportional": 1.0, "equal": 0.0}
    exponent = exponents.get(domain_sampling, 1 / temperature)
    return (seconds / seconds.sum()) ** exponent


def draw_domains(n_domains, domains_per_iteration, n_steps, rng):
    """Draw the domains of each step of an epoch.

    The counts of any two domains differ by one at most at any point of the epoch.

    Arguments
    ---------
    n_domains : int
        How many domains there are.
    domains_per_iteration : int
        How many of them a step has.
    n_steps : int
        Steps in the epoch.
    rng : numpy.random.Generator
        Draws them; it is not used if every step has all domains.

    Returns
    -------
    drawn : np.ndarray of int32, shape (n_steps, domains_per_iteration)
        Indices of the domains of each step, in ascending order.
    earlier : np.ndarray of int32, same shape
        How often that domain had already been drawn in this epoch.
    """
    shape = (n_steps, domains_per_iteration)
    if domains_per_iteration == n_domains:
        earlier, drawn = np.indices(shape, np.int32)
        return drawn, earlier
    drawn, earlier = np.empty(shape, np.int32), np.empty(shape, np.int32)
    counts = np.zeros(n_domains, np.int32)
    for step in range(n_steps):
        # Those drawn least so far come first, in random order among equals.
        chosen = np.argsort(counts + rng.random(n_domains))[:domains_per_iteration]
        drawn[step] = np.sort(chosen)
        earlier[step] = counts[drawn[step]]
        counts[chosen] += 1
    return drawn, earlier
