"""usg-psg completion: a shell completes commands and their options."""

import shutil
import subprocess

import pytest

from usg_psg_cli import main


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_options(capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "code").write_text(capsys.readouterr().out)
    setting = "COMP_WORDS=(usg-psg {}); COMP_CWORD={}; _shtab_usg_psg; echo ${{COMPREPLY[@]}}"
    words = f"source {tmp_path / 'code'}; {setting}"
    for line, place, expected in (
        ("tr", 1, ["train"]),
        ("train --num-g", 2, ["--num-gpus"]),
        ("benchmark inf", 2, ["inference"]),
        ("benchmark train --num-g", 3, ["--num-gpus"]),
    ):
        done = subprocess.run(["bash", "-c", words.format(line, place)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "reproduce" in capsys.readouterr().out
