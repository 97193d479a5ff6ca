"""``python -m models [NAME ...]``: a table of the registered architectures."""

import argparse

import torch
from rich.console import Console
from rich.table import Table

import models


def describe(name: str) -> tuple[str, ...]:
    """A row of the table: name, parameters in millions, sample rate in kHz, embedding size, checkpoints.

    Raises:
        ValueError: unknown name.
    """
    architecture = models.get(name)
    with torch.device("meta"):  # sizes without the weights
        net = architecture.net(**architecture.preset)
    mel = architecture.mel(**architecture.mel_preset)
    millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    checkpoints = ", ".join(architecture.checkpoints) or "-"
    return name, f"{millions:.2f}", f"{mel.sample_rate / 1000:g}", str(net.embed_dim), checkpoints


def main():
    """Prints the table.

    Raises:
        SystemExit: an unknown name.
    """
    parser = argparse.ArgumentParser(prog="python -m models", description="lists the registered architectures")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    names = parser.parse_args().names or models.names()
    table = Table("arch", box=None, pad_edge=False, title_justify="left")
    for column in ("M parameters", "kHz", "embedding"):
        table.add_column(column, justify="right")
    table.add_column("checkpoints", overflow="fold")
    try:
        for name in names:
            table.add_row(*describe(name))
    except ValueError as error:
        parser.error(str(error))
    Console().print(table)


if __name__ == "__main__":
    main()
