"""Pictures whose opposite edges meet: convolutions that see the other edge beyond their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def seamless(network: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Have a network's convolutions wrap around while the block runs; afterwards all is as it was.

    Put it around one call of the network, not around a loop that others may run between.

    Args:
        network: its `nn.Conv2d` are set to circular padding.
        wanted: False changes nothing.
    """
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)] if wanted else []
    before = [each.padding_mode for each in convolutions]
    for each in convolutions:
        each.padding_mode = "circular"
    try:
        yield
    finally:
        for each, mode in zip(convolutions, before, strict=True):
            each.padding_mode = mode
