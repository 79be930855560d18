"""usg-psg env: the report of an error has versions, the engine and the operators."""

import torch

from usg_psg import __version__
from usg_psg.compat import engine_name
from usg_psg_cli import main


def test_versions_engine_and_operators_are_named(capsys):
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert f"usg_psg {__version__}; engine: {engine_name()}\n" in printed
    assert f"torch {torch.__version__}" in printed and "attention on cpu: " in printed
