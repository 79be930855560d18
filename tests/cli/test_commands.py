"""The command line: every command is found, wrong arguments end in one line, nothing heavy is imported for either."""

import gc
import signal
import sys
from importlib import import_module

import pytest

from usg_psg import graph_formats
from usg_psg.cli import plot
from usg_psg.cli.benchmark import amp, ops
from usg_psg.data import psg_json
from usg_psg.data.psg_shapes import VOCABULARIES
from usg_psg.data.sources import coco, hub, rebuild
from usg_psg.data.validation import check_dataset
from usg_psg.evaluation import EXPORT_FORMATS, errors, sgdet_evaluator, sgdet_metrics
from usg_psg.pretrained import foreign_checkpoint, rules
from usg_psg.visualization import WEAK_SCORE
from usg_psg_cli import benchmark_commands, commands, data_commands, main, model_commands, program

from ..programs import ROOT, exit_status, load_tool, run, start

CONFIG = ["--config-file", "configs/quickstart/usg_par_quickstart.yaml"]
ABSENT = ["--config-file", "absent.yaml"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ablate", [*ABSENT, "--output", "out"], "absent.yaml"),
        ("ablate", [*CONFIG, "--output", "a_file"], "a_file: File exists"),
        ("ablate", [*CONFIG, "--output", "out", "--jobs", "0"], "argument --jobs: expected 1 or more, got 0"),
        ("ablate", [*CONFIG, "--output", "out", "--seeds", "1", "-1"], "argument --seeds: expected 0 or more, got -1"),
        ("analyze_model", [*CONFIG, "--size", "0", "0"], "argument --size: expected 1 to 4096, got 0"),
        ("analyze_model", [*CONFIG, "--size", "640", "65500"], "argument --size: expected 1 to 4096, got 65500"),
        ("app", [*CONFIG, "--weights", "x", "--port", "70000"], "argument --port: expected 0 to 65535, got 70000"),
        ("benchmark amp", ABSENT, "absent.yaml"),
        ("benchmark amp", [*CONFIG, "--iterations", "0"], "argument --iterations: expected 1 or more, got 0"),
        ("benchmark amp", [*CONFIG, "--num-scenes", "x"], "argument --num-scenes: expected a whole number, got 'x'"),
        ("benchmark data", ["--images", "0"], "argument --images: expected 1 or more, got 0"),
        ("benchmark evaluate", ["--images", "0"], "argument --images: expected 1 or more, got 0"),
        ("benchmark evaluate", ["--distinct", "0"], "argument --distinct: expected 1 or more, got 0"),
        ("benchmark evaluate", ["--size", "-1", "5"], "argument --size: expected 1 or more, got -1"),
        ("benchmark evaluate", ["--segments", "1"], "--segments: expected 2 to 100, as many as --masks, got 1"),
        ("benchmark evaluate", ["--masks", "10"], "--segments: expected 2 to 10, as many as --masks, got 20"),
        ("benchmark inference", [*CONFIG, "--size", "0"], "argument --size: expected 1 or more, got 0"),
        ("benchmark inference", [*CONFIG, "--warmup", "0"], "argument --warmup: expected 1 or more, got 0"),
        ("benchmark memory", ["--workers", "-1"], "argument --workers: expected 0 or more, got -1"),
        ("benchmark memory", ["--iterations", "9"], "argument --iterations: expected 80 or more, got 9"),
        ("benchmark ops", ["--repeats", "0"], "argument --repeats: expected 1 or more, got 0"),
        ("benchmark ops", ["--levels", "20x20,x"], "argument --levels: expected HxW,HxW,..., got '20x20,x'"),
        ("benchmark train", [*CONFIG, "--iterations", "0"], "argument --iterations: expected 1 or more, got 0"),
        (
            "make_synthetic_psg",
            ["--output", "out", "--workers", "-1"],
            "argument --workers: expected 1 or more, got -1",
        ),
        ("make_synthetic_psg", ["--output", "out", "--num-train", "-1"], "num_train: expected 0.."),
        ("make_synthetic_psg", ["--output", "out", "--size", "0"], "size: expected (height, width)"),
        ("demo", [*CONFIG, "--input", "a", "--output", "b", "--score-threshold", "nan"], "expected 0 to 1, got nan"),
        ("benchmark memory", ["--limit", "inf"], "argument --limit: expected more than 0, got inf"),
        ("prepare_psg", ["check", "--timeout", "nan"], "argument --timeout: expected more than 0, got nan"),
        ("prepare_psg", ["check", "--workers", "x"], "argument --workers: expected a whole number, got 'x'"),
        ("prepare_psg", ["check", "--timeout", "x"], "argument --timeout: expected a number, got 'x'"),
        ("prepare_psg", ["check", "--timeout", "0"], "argument --timeout: expected more than 0, got 0"),
        ("quickstart", ["--num-train", "-3"], "argument --num-train: expected 1 or more, got -3"),
    ],
)
def test_wrong_arguments_end_in_one_line(name, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "a_file").touch()
    entry = program(name) if " " in name else load_tool(name).main
    assert exit_status(entry, arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name, command in commands.COMMANDS.items() if not command.members])
def test_every_command_has_a_function(name):
    command = commands.COMMANDS[name]
    assert callable(getattr(import_module(f"usg_psg.cli.{command.module}"), command.function))


def test_repeated_values_are_those_of_the_package():
    assert commands.SPLITS == psg_json.SPLITS and commands.TASKS == sgdet_evaluator.TASKS.choices
    assert commands.KS == sgdet_metrics.KS and commands.EXPORT_FORMATS == tuple(EXPORT_FORMATS)
    assert commands.ERROR_PROTOCOLS == errors.ERROR_PROTOCOLS and model_commands.SOURCES == rules.SOURCES
    assert model_commands.SUFFIXES_WRITTEN == foreign_checkpoint.SUFFIXES_WRITTEN
    assert commands.PLOTTED == plot.METRICS
    assert ("json", *commands.GRAPH_FORMATS) == tuple(graph_formats.SUFFIXES)
    assert set(commands.PRESETS) == set(VOCABULARIES)
    assert (commands.WEAK_SCORE, data_commands.TIMEOUT) == (WEAK_SCORE, check_dataset.TIMEOUT)
    assert (data_commands.COCO_URL, data_commands.MIN_IOU) == (coco.COCO_URL, rebuild.MIN_IOU)
    assert data_commands.PSG_REPOSITORY == hub.PSG_REPOSITORY
    assert (benchmark_commands.RUNS, benchmark_commands.DTYPES) == (tuple(amp.RUNS), tuple(ops.DTYPES))


@pytest.mark.parametrize("words", [[], ["train"], ["benchmark"], ["benchmark", "train"]])
def test_help_imports_nothing_heavy(words):
    code = "import sys; from usg_psg_cli import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    done = run("-c", code, *words, "--help", fresh=True)
    *_, loaded = done.stdout.splitlines()
    assert done.returncode == 0 and not {"usg_psg", "numpy", "torch"} & set(loaded.split())


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_do_not_wait_long_for_a_busy_core(given, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    code = "import gc, os; from usg_psg_cli import main; main(['env'])\n"
    code += "print(os.environ.get('GOMP_SPINCOUNT'), gc.isenabled())"
    done = run("-c", code, env=given, fresh=True)
    spins = given.get("GOMP_SPINCOUNT") if given else "3000"
    assert done.stdout.splitlines()[-1] == f"{spins} True"


def test_the_console_command_lists_its_commands(capsys):
    top = [name for name in commands.COMMANDS if " " not in name]
    for group, members in (([], top), *(([name], commands.COMMANDS[name].members) for name in ("data", "benchmark"))):
        assert exit_status(main, [*group, "--help"]) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name.split()[-1]} " in printed for name in members)
        assert exit_status(main, [*group, "no_such_command"]) == 2


def test_a_command_says_its_own_name(capsys):
    assert exit_status(main, ["plot", "run", "--smoothing", "0", "--output", "a.png"]) == 2
    assert " plot: error: argument --smoothing: expected 1 or more, got 0" in capsys.readouterr().err
    assert exit_status(main, ["benchmark", "data", "--images", "0"]) == 2
    assert " benchmark data: error: argument --images" in capsys.readouterr().err


def test_a_python_without_pytorch_is_said_to_be_one():
    process = start("-S", "tools/train_net.py", "--config-file", "a.yaml", fresh=True)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and message.startswith(f"train_net.py: {sys.executable} has no PyTorch: is the")


def test_ctrl_c_during_imports_ends_in_one_line():
    process = start("tools/train_net.py", "--config-file", "a.yaml", env={"PYTHONVERBOSE": "1"}, fresh=True)
    for line in process.stderr:
        if line.startswith("import 'torch"):
            break
    process.send_signal(signal.SIGINT)
    *verbose, last = process.stderr
    # The signal may come in the middle of a line of Python's own, which then has the message at its end.
    assert process.wait(60) == 130 and last.endswith("train_net.py: interrupted\n")
    assert all(line.startswith(("#", "import ")) for line in verbose)


def test_imports_that_fail_leave_garbage_collection_on(monkeypatch):
    def fail(name):
        assert not gc.isenabled()
        raise ImportError(name)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys.modules["usg_psg_cli.program"], "import_module", fail)
    try:
        with pytest.raises(ImportError, match="env"):
            main(["env"])
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
