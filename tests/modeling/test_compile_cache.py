"""What torch.compile makes in one process is found by the next."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from unittest.mock import MagicMock

import pytest

from usg_psg.modeling import compile as compile_module

RUN = """
import logging, torch
from torch import nn
from usg_psg.modeling.compile import compile_parts

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def parts(self):
        return [(self.layer, "forward")]

    def formulas(self):
        return []

    def recordable(self):
        return []

logging.basicConfig(level=logging.INFO)
model = Model()
compile_parts(model, "kernels")
model.layer(torch.ones(1, 2)).sum().backward()
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR")}
    found = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", RUN],
            env={**environment, "USG_PSG_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        found += re.findall(r"(\d+) of (\d+) graphs were found in (.+)", run.stderr)[-1:]
    assert found == [("0", "2", f"{tmp_path}/compiled"), ("2", "2", f"{tmp_path}/compiled")]


def test_the_folder_of_torch_compile_is_left_to_who_has_set_it(tmp_path, monkeypatch, caplog):
    prepare = compile_module._keep_what_is_compiled.__wrapped__
    monkeypatch.setattr(compile_module.torch._dynamo, "on_compile_start", lambda _: None)
    monkeypatch.setattr(compile_module.torch._dynamo, "on_compile_end", lambda _: None)
    monkeypatch.setenv("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/theirs")
    monkeypatch.setenv("USG_PSG_CACHE", str(tmp_path / "ours"))
    prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/theirs" and os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] == "0"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_me")  # PyTorch's own
    prepare()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "ours" / "compiled")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("USG_PSG_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    prepare()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert f"compiled kernels are not kept: [Errno 20] Not a directory: '{tmp_path}/file/compiled'" in caplog.text


def test_the_compiler_is_imported_for_the_folder_and_for_the_device_of_this_process(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("USG_PSG_CACHE", str(tmp_path))
    cuda, found = compile_module.torch.cuda, []
    monkeypatch.setattr(cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(cuda, "current_device", lambda: 3)
    monkeypatch.setattr(cuda, "set_device", lambda device: found.append(device))

    def noted(name):
        found.append((name, os.environ.get("TORCHINDUCTOR_CACHE_DIR"), threading.current_thread()))
        return MagicMock()

    monkeypatch.setattr(compile_module.importlib, "import_module", noted)
    interval = sys.getswitchinterval()
    with compile_module.importing_compiler("kernels+graphs"):
        assert found[0] == ("timm", f"{tmp_path}/compiled", threading.main_thread()), "before the thread begins"
        assert sys.getswitchinterval() == pytest.approx(compile_module.SHORT_INTERVAL)
    assert sys.getswitchinterval() == interval
    assert found[1] == 3 and found[2][0].startswith("torch._inductor") and found[2][2] != threading.main_thread()
