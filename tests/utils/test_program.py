"""Wrong arguments of the programs in one line; Ctrl-C as something to look for."""

import ast
import signal

import pytest

from usg_psg.utils.program import Interruption

from ..programs import ROOT, exit_status, load_tool, start_tool

CONFIG = ["--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
ABSENT = ["--config-file", "absent.yaml"]


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("ablate", [*ABSENT, "--output", "out"], "absent.yaml"),
        ("ablate", [*CONFIG, "--output", "a_file"], "a_file: File exists"),
        ("ablate", [*CONFIG, "--output", "out", "--jobs", "0"], "argument --jobs: expected 1 or more, got 0"),
        ("ablate", [*CONFIG, "--output", "out", "--seeds", "1", "-1"], "argument --seeds: expected 0 or more, got -1"),
        ("analyze_model", [*CONFIG, "--size", "0", "0"], "argument --size: expected 1 to 4096, got 0"),
        ("analyze_model", [*CONFIG, "--size", "640", "65500"], "argument --size: expected 1 to 4096, got 65500"),
        ("app", [*CONFIG, "--checkpoint", "x", "--port", "70000"], "argument --port: expected 0 to 65535, got 70000"),
        ("benchmark_amp", ABSENT, "absent.yaml"),
        ("benchmark_amp", [*CONFIG, "--iterations", "0"], "argument --iterations: expected 1 or more, got 0"),
        ("benchmark_amp", [*CONFIG, "--num-scenes", "x"], "argument --num-scenes: expected a whole number, got 'x'"),
        ("benchmark_data", ["--images", "0"], "argument --images: expected 1 or more, got 0"),
        ("benchmark_eval", ["--images", "0"], "argument --images: expected 1 or more, got 0"),
        ("benchmark_eval", ["--distinct", "0"], "argument --distinct: expected 1 or more, got 0"),
        ("benchmark_eval", ["--size", "-1", "5"], "argument --size: expected 1 or more, got -1"),
        ("benchmark_eval", ["--segments", "1"], "--segments: expected 2 to 100, as many as --masks, got 1"),
        ("benchmark_eval", ["--masks", "10"], "--segments: expected 2 to 10, as many as --masks, got 20"),
        ("benchmark_inference", [*CONFIG, "--size", "0"], "argument --size: expected 1 or more, got 0"),
        ("benchmark_inference", [*CONFIG, "--warmup", "0"], "argument --warmup: expected 1 or more, got 0"),
        ("benchmark_memory", ["--workers", "-1"], "argument --workers: expected 0 or more, got -1"),
        ("benchmark_memory", ["--iterations", "9"], "argument --iterations: expected 80 or more, got 9"),
        ("benchmark_ops", ["--repeats", "0"], "argument --repeats: expected 1 or more, got 0"),
        ("benchmark_ops", ["--levels", "20x20,x"], "argument --levels: expected HxW,HxW,..., got '20x20,x'"),
        ("benchmark_train", [*CONFIG, "--iterations", "0"], "argument --iterations: expected 1 or more, got 0"),
        (
            "make_synthetic_psg",
            ["--output", "out", "--workers", "-1"],
            "argument --workers: expected 1 or more, got -1",
        ),
        ("make_synthetic_psg", ["--output", "out", "--num-train", "-1"], "num_train: expected 0.."),
        ("make_synthetic_psg", ["--output", "out", "--size", "0"], "size: expected (height, width)"),
        ("demo", [*CONFIG, "--input", "a", "--output", "b", "--score-threshold", "nan"], "expected 0 to 1, got nan"),
        ("benchmark_memory", ["--limit", "inf"], "argument --limit: expected more than 0, got inf"),
        ("prepare_psg", ["check", "--timeout", "nan"], "argument --timeout: expected more than 0, got nan"),
        ("prepare_psg", ["check", "--workers", "x"], "argument --workers: expected a whole number, got 'x'"),
        ("prepare_psg", ["check", "--timeout", "x"], "argument --timeout: expected a number, got 'x'"),
        ("prepare_psg", ["check", "--timeout", "0"], "argument --timeout: expected more than 0, got 0"),
        ("quickstart", ["--num-train", "-3"], "argument --num-train: expected 1 or more, got -3"),
    ],
)
def test_wrong_arguments_end_in_one_line(program, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tools")  # where the benchmarks find each other
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "a_file").touch()
    assert exit_status(load_tool(program).main, arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_every_program_takes_care_of_ctrl_c_before_its_imports(path):
    lines = ast.parse(path.read_text()).body
    imported = [line for line in lines if isinstance(line, ast.Import | ast.ImportFrom)]
    first = next(line for line in imported if getattr(line, "module", "") != "__future__")
    is_program = any(isinstance(line, ast.If) for line in lines) and path.stem != "ctrl_c"
    assert not is_program or [alias.name for alias in first.names] == ["ctrl_c"]


def test_ctrl_c_during_imports_ends_in_one_line():
    process = start_tool("train_net", "--help", env={"PYTHONVERBOSE": "1"})
    for line in process.stderr:
        if line.startswith("import 'torch"):
            break
    process.send_signal(signal.SIGINT)
    rest = [line for line in process.stderr if not line.startswith(("#", "import "))]
    assert process.wait(60) == 130 and rest == ["train_net.py: interrupted\n"]


def test_the_first_ctrl_c_waits_to_be_looked_for():
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        interruption.check()
        signal.raise_signal(signal.SIGINT)
        done.append("the piece of work")
        interruption.check()
    assert done and signal.getsignal(signal.SIGINT) is before


def test_the_second_ctrl_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_program_in_the_background_of_a_script_goes_on_ignoring_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            interruption.check()
    finally:
        signal.signal(signal.SIGINT, before)
