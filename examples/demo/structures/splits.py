"""Which slab meets which adsorbate in which split: disjoint in OC20's sense, and without a pair in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from structures.adsorbates import BINDING_ATOM
from structures.slabs import Slab, all_slabs

UNSEEN_ADSORBATES = ("OH", "CH2", "NH2", "NO")
UNSEEN_METALS = (("Ag", "Pd"), ("Al", "Cu"), ("Au", "Ni"), ("Cu", "Pt"), ("Ni", "Pd"))
"""Element combinations held out of training; each element by itself and in other alloys is in it."""

DOMAINS = ("id", "ood_ads", "ood_cat", "ood_both")
MAX_ROUNDS = 100


@dataclass(frozen=True)
class Candidate:
    """One relaxation to be tried; ``seed`` fixes site and orientation."""

    slab: Slab
    adsorbate: str
    seed: tuple[int, ...]


def split_sizes(train: int, val: int, test: int) -> dict[str, int]:
    """Number of systems of each split; splits of size zero are left out."""
    sizes = {"train": train}
    sizes |= {f"val_{domain}": val for domain in DOMAINS}
    sizes |= {f"test_{domain}": test for domain in DOMAINS}
    return {split: size for split, size in sizes.items() if size}


def domain_pairs(domain: str) -> list[tuple[Slab, str]]:
    """All slab-adsorbate pairs of a domain; OC20's four domains share none."""
    unseen_adsorbate = domain in ("ood_ads", "ood_both")
    unseen_metals = domain in ("ood_cat", "ood_both")
    return [
        (slab, adsorbate)
        for slab in all_slabs()
        for adsorbate in BINDING_ATOM
        if (adsorbate in UNSEEN_ADSORBATES) == unseen_adsorbate and (slab.metals in UNSEEN_METALS) == unseen_metals
    ]


def candidates(split: str, sizes: dict[str, int], seed: int) -> Iterator[Candidate]:
    """Relaxations to try for a split, in an order that only ``seed`` and ``sizes`` decide.

    Splits of one domain (train, val_id and test_id) share its pairs out in proportion to their
    sizes. Each pair comes once before any comes again, at another site.
    """
    domain = "id" if split == "train" else split.split("_", 1)[1]
    index = DOMAINS.index(domain)
    pairs = domain_pairs(domain)
    order = np.random.default_rng([seed, index]).permutation(len(pairs))
    sharers = [
        name for name in sizes if name == split or name.endswith(f"_{domain}") or (domain == "id" and name == "train")
    ]
    bounds = np.cumsum([0] + [sizes[name] for name in sharers]) * len(pairs) // sum(sizes[name] for name in sharers)
    position = sharers.index(split)
    own = order[bounds[position] : bounds[position + 1]]
    for round_number in range(MAX_ROUNDS):
        for pair in own:
            slab, adsorbate = pairs[pair]
            yield Candidate(slab, adsorbate, seed=(seed, index, int(pair), round_number))
