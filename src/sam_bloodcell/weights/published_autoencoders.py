"""Reading of the papers' published autoencoders: state dicts of BC-SAM's or DoRL's, which have different names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..models.published import BCSAMAutoencoder, DoRLAutoencoder
from ..models.sam import differences
from .tensors import read_tensors, without_prefix

_BCSAM, _DORL = "encoder.0.weight", "encoder.cls_token"
_COUNTER = ".num_batches_tracked"  # used only in training; files may lack it
_LISTED = 10


def read_published_autoencoder(path: str | os.PathLike) -> BCSAMAutoencoder | DoRLAutoencoder:
    """Read an autoencoder that the papers' code saved, and return the network in evaluation mode.

    The file determines which of the two networks it is (BC-SAM, Li et al., ISBI 2024, or DoRL, Li et al., 2024), its
    width and, for DoRL, the numbers of blocks (``network.depth``). ``network.encode(tokens)`` computes the features
    that the papers' classifiers read, from the encoder's float32 token maps (B, C, 14, 14). BC-SAM's autoencoder has 50
    features. DoRL's features are the C numbers of the CLS token.

    Parameters
    ----------
    path : str or path
        State dict that ``torch.save`` wrote, with any suffix, such as DoRL's ``.mdl``. The names may have a prefix such
        as ``module.``. Only tensors are unpickled.

    Returns
    -------
    BCSAMAutoencoder or DoRLAutoencoder
        The network, from `sam_bloodcell.models.published`.

    Raises
    ------
    WeightsUnavailableError
        If the file is missing, damaged or contains anything but tensors.
    ValueError
        If the file is neither of the two. The message lists the differences.
    """
    state = without_prefix(read_tensors(Path(path)), marks=(_BCSAM, _DORL))
    if _BCSAM not in state and _DORL not in state:
        raise ValueError(
            f"'{path}' is not an autoencoder of the published code: it has neither '{_BCSAM}' (BC-SAM) nor '{_DORL}' "
            f"(DoRL) among its {len(state)} names. Fix: pass the state dict that its training saved."
        )
    with torch.device("meta"):  # allocates no memory, because the file may turn out to be something else
        network = _empty_dorl(state) if _DORL in state else _empty_bcsam(state)
    ours = {_published_name(network, name): name for name in network.state_dict()}
    shapes = {name: tuple(network.state_dict()[own].shape) for name, own in ours.items() if not _is_counter(name)}
    problems = differences({name: value for name, value in state.items() if not _is_counter(name)}, shapes)
    if problems:
        paper = "DoRL" if _DORL in state else "BC-SAM"
        rest = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise ValueError(
            f"'{path}' is not a complete autoencoder of {paper}:\n  " + "\n  ".join([*problems[:_LISTED], *rest]) + "\n"
            "Fix: pass the state dict that its training saved, whole."
        )
    counters = {own: torch.tensor(0) for name, own in ours.items() if _is_counter(name)}
    network.load_state_dict(counters | {ours[name]: state[name] for name in shapes}, assign=True)
    return network.eval()


def _empty_bcsam(state: Mapping[str, Tensor]) -> BCSAMAutoencoder:
    return BCSAMAutoencoder(_size(state, _BCSAM, 1), _size(state, "encoder.6.weight", 0))


def _empty_dorl(state: Mapping[str, Tensor]) -> DoRLAutoencoder:
    encoder, decoder = (_count_blocks(state, part) for part in ("encoder", "decoder"))
    return DoRLAutoencoder(
        _size(state, _DORL, 2), _size(state, "decoder.Linear.weight", 0), depth=(encoder, decoder)
    )  # fmt: skip


def _size(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Return the length of an axis of a tensor, or 1 if there is none, which the other tensors then contradict."""
    value = state.get(name)
    return 1 if value is None or value.ndim <= axis else max(1, value.shape[axis])


def _count_blocks(state: Mapping[str, Tensor], part: str) -> int:
    numbers = {int(found[1]) for name in state if (found := re.match(rf"{part}\.transformer\.(\d{{1,4}})\.", name))}
    return len(numbers)


def _published_name(network: BCSAMAutoencoder | DoRLAutoencoder, name: str) -> str:
    """Return the published code's name of a parameter or buffer of our network."""
    if isinstance(network, DoRLAutoencoder):
        return name.replace("decoder.to_features.", "decoder.Linear.")
    part, unit, *layer, kind = name.split(".")
    # The published network is one list of layers. Ours has units of three layers: convolution, BatchNorm and ReLU.
    return f"{part}.{3 * int(unit) + int(layer[0] if layer else 0)}.{kind}"


def _is_counter(name: str) -> bool:
    return name.endswith(_COUNTER)
