"""Which network evaluations eq. 11 needs, with everything shared that can be.

The first layer of NN is linear, so ``W (D x - x) = W D x - W x`` and ``W (x_i + x_j) = W x_i + W x_j``: the parts that
do not depend on the edge's frame are formed once per atom. Where NN ends without activation, the second layer is
linear too, and the hidden layers of one term are summed before it. Where x has only l = 0 (the first layer),
``D x = x``, so x'' = 0 and nothing needs rotating.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fairchem_hdgnn.hdgnn.options import Mlp, NeuralInput


class Role(str, Enum):
    """Whose features a network sees."""

    SOURCE = "source"
    TARGET = "target"
    PAIR = "pair"


@dataclass(frozen=True)
class Evaluation:
    """One hidden layer: ``SiLU(rotated W D x + plain W x + b) * c``.

    Attributes:
        network: index into the message's networks.
        role: whose x.
        rotated: factor (0 or 1) of the rotated features.
        plain: factor (-1, 0 or 1) of the features in the global frame.
    """

    network: int
    role: Role
    rotated: int
    plain: int

    @property
    def uses_pair_features(self) -> bool:
        """Whether c is that of the pair's network."""
        return self.role is Role.PAIR


@dataclass(frozen=True)
class Group:
    """One second layer: applied to the sum of some hidden layers, its result added to some terms.

    Attributes:
        network: index into the message's networks.
        evaluations: positions of the hidden layers.
        terms: terms of eq. 11 (0 source, 1 target, 2 pair) that take the result.
    """

    network: int
    evaluations: tuple[int, ...]
    terms: tuple[int, ...]


@dataclass(frozen=True)
class Evaluations:
    """All hidden layers and second layers of the learned terms of eq. 11."""

    hidden: tuple[Evaluation, ...]
    groups: tuple[Group, ...]

    @property
    def rotates(self) -> bool:
        """Whether any network sees rotated features."""
        return any(evaluation.rotated for evaluation in self.hidden)


def plan_evaluations(mlp: Mlp, neural_input: NeuralInput, output_activation: bool, only_scalars: bool) -> Evaluations:
    """List the evaluations for a message's options.

    Args:
        mlp: shared or separate networks; the index counts as in ``HybridMessage.networks``.
        neural_input: x'' and x, or x'.
        output_activation: whether NN ends with a SiLU.
        only_scalars: whether x is known to have only l = 0.
    """
    inputs = [(1, -1), (0, 1)] if neural_input is NeuralInput.SPLIT else [(1, 0)]
    wanted: list[tuple[Evaluation, int]] = []
    for term, role in enumerate(Role):
        for index, (rotated, plain) in enumerate(inputs):
            shared = 1 if role is Role.PAIR else 0
            network = shared if mlp is Mlp.SHARED else term * len(inputs) + index
            factors = (0, rotated + plain) if only_scalars else (rotated, plain)
            wanted.append((Evaluation(network, role, *factors), term))

    hidden: list[Evaluation] = []
    placed: list[tuple[int, int]] = []
    for evaluation, term in wanted:
        position = next((k for k, other in enumerate(hidden) if _same_value(evaluation, other)), len(hidden))
        if position == len(hidden):
            hidden.append(evaluation)
        placed.append((position, term))

    if output_activation:
        groups = [
            Group(hidden[k].network, (k,), tuple(term for position, term in placed if position == k))
            for k in range(len(hidden))
        ]
    else:
        pairs = sorted({(term, hidden[position].network) for position, term in placed})
        groups = [
            Group(network, tuple(k for k, t in placed if t == term and hidden[k].network == network), (term,))
            for term, network in pairs
        ]
    return Evaluations(tuple(hidden), tuple(groups))


def _same_value(one: Evaluation, other: Evaluation) -> bool:
    """Whether two hidden layers agree for every x: equal, or blind to x with the same network and c."""
    blind = not (one.rotated or one.plain or other.rotated or other.plain)
    same_network = one.network == other.network and one.uses_pair_features == other.uses_pair_features
    return one == other or (blind and same_network)
