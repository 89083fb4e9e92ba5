"""The command line: what it prints, and what it returns to the shell."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_experiments import TINY, at_work, record_of, steps_of

from flatlib.lab import cli, commands, pretrained
from flatlib.lab.experiments import EXPERIMENTS, SCALES, Outcome, Record, configurations, execute
from flatlib.lab.populations import POPULATIONS


def test_list_names_every_experiment(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    drawn = [f"population-{name}" for name in POPULATIONS]
    assert [line.split()[0] for line in lines] == [*EXPERIMENTS, *drawn, pretrained.NAME]
    assert "25 at paper" in next(line for line in lines if line.startswith("correlations-vgg10"))


def test_run_hands_its_options_on(monkeypatch, tmp_path, capsys):
    asked = {}

    def fake(name, scale, **options):
        asked.update(options, name=name, scale=scale)
        return [Outcome("one", "complete"), Outcome("two", "failed", "OSError: disk full")]

    monkeypatch.setattr(commands, "run", fake)
    words = "run mlp-bounds --scale paper --steps 100 --seeds 0,2 --workers 3 --no-progress"
    more = ["--device", "cuda", "--scheduler", "tcp://a:1", "--results", str(tmp_path)]
    code = cli.main([*words.split(), *more])
    assert code == 1
    assert asked == {
        "name": "mlp-bounds",
        "scale": "paper",
        "steps": 100,
        "seeds": (0, 2),
        "workers": 3,
        "scheduler": "tcp://a:1",
        "device": "cuda",
        "results": tmp_path,
        "progress": False,
    }
    out = capsys.readouterr().out.splitlines()
    assert out == ["complete  one", "failed    two OSError: disk full"]


def test_status_tells_running_from_stopped(tmp_path, capsys):
    whole = configurations("mlp-bounds")[0]
    execute(whole, "smoke", tmp_path)
    record = Record(tmp_path, "smoke", "interrupted")
    manifest = Record(tmp_path, "smoke", whole.name).read_manifest()
    interrupted = {"run": "interrupted", "status": "running", "steps": 200, "weights": None}
    record.write([{"step": 200}], {**manifest, **interrupted})
    (record.folder / ".manifest.json.part").touch()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["status", "--results", str(tmp_path)]) == 0
    assert sorted(tmp_path.rglob("*")) == before, "to ask leaves no trace"
    stopped, complete = capsys.readouterr().out.splitlines()
    assert stopped.split() == ["smoke", "stopped", "200/600", "interrupted"]
    assert complete.split() == ["smoke", "complete", "600/600", whole.name]
    with record.lock():
        cli.main(["status", "--scale", "smoke", "--results", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[0].split()[1] == "running"
    assert cli.main(["status", "--scale", "paper", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out == "" and f"there are no runs in {tmp_path / 'paper'}; " in said.err


@pytest.mark.parametrize("lost", ["manifest.json", "measurements.csv", "weights-600.npz"])
def test_status_tells_of_a_file_that_is_missing(tmp_path, capsys, lost):
    run = configurations("mlp-bounds")[0]
    execute(run, "smoke", tmp_path)
    (tmp_path / "smoke" / run.name / lost).unlink()
    assert cli.main(["status", "--results", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out.split() == ["smoke", "altered", run.name]
    assert re.search(f"{lost} is missing.*Restore it, or delete the run's folder", said.err)


def test_status_tells_of_weights_that_are_damaged(tmp_path, capsys):
    run = configurations("mlp-bounds")[0]
    execute(run, "smoke", tmp_path)
    weights = tmp_path / "smoke" / run.name / "weights-600.npz"
    whole = weights.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (whole[:middle], changed):
        weights.write_bytes(content)
        assert cli.main(["status", "--results", str(tmp_path)]) == 1
        assert "damaged" in capsys.readouterr().err
    weights.write_bytes(whole)
    assert cli.main(["status", "--results", str(tmp_path)]) == 0


def test_results_in_the_place_of_a_file(tmp_path, capsys):
    place = tmp_path / "file"
    place.write_text("kept")
    words = ["run", "mlp-bounds", "--steps", "200", "--no-progress", "--results", str(place)]
    assert cli.main(words) == 1
    assert "a part of its path is a file; name a folder" in capsys.readouterr().out
    assert place.read_text() == "kept"


def test_nobody_who_reads_what_is_printed_ends_the_command_in_silence(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "flatlib.lab.cli", "list"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "fig1"], "invalid choice"),
        (["run", "mlp-bounds", "--seeds", "a"], "invalid seeds value"),
        (["status", "--results", ""], "name of a folder is needed"),
        (["run", "mlp-bounds", "--results", ""], "name of a folder is needed"),
        ([], "COMMAND"),
    ],
)
def test_bad_words_end_with_usage(words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_bad_settings_end_with_one_line(tmp_path, capsys):
    assert cli.main(["run", "mlp-bounds", "--steps", "70", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flatlib: steps must be a multiple of measure_every")
    assert error.count("\n") == 1


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    assert cli.main(["run", "mlp-bounds"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_the_book_names_every_experiment_and_commands_that_exist():
    page = (Path(__file__).parents[1] / "book" / "runs.md").read_text()
    found = re.findall(r"^flatlib (.+)$", page, flags=re.MULTILINE)
    assert len(found) >= 8
    for command in found:
        options = commands.parser().parse_args(command.split())
        if getattr(options, "name", "") == pretrained.NAME:
            assert options.images and options.models
        elif "name" in options and options.name.startswith("population-"):
            assert options.name.removeprefix("population-") in POPULATIONS
        elif "name" in options:
            assert configurations(options.name, options.scale, options.seeds, options.steps)
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|", page, flags=re.MULTILINE)
    figures = {name: figure for name, figure in rows if name not in SCALES}
    assert {name: one.figure.split(",")[0] for name, one in EXPERIMENTS.items()} == figures


def test_the_books_example_of_reading_the_archive_runs():
    page = (Path(__file__).parents[1] / "book" / "runs.md").read_text()
    code = re.search(r"```python\n(.+?)```", page, flags=re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    assert set(names["end"].lr) == {0.05, 0.1, 0.2}
    assert names["end"].seed.nunique() >= 3


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"flatlib \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_status_of_a_folder_that_is_not_there(tmp_path, capsys):
    assert cli.main(["status", "--results", str(tmp_path / "none")]) == 2
    assert f"there is no results folder {tmp_path / 'none'}" in capsys.readouterr().err


def test_a_seed_of_many_digits_and_a_missing_device_end_with_one_line(tmp_path, capsys):
    words = ["run", "mlp-bounds", "--results", str(tmp_path), "--no-progress"]
    assert cli.main([*words, "--seeds", 23 * "9"]) == 2
    assert f"seed must be from 0 to {2**63 - 1}, got {23 * '9'}" in capsys.readouterr().err
    assert cli.main([*words, "--device", "cuda:99"]) == 2
    assert "device 'cuda:99' cannot be used here" in capsys.readouterr().err


def left_behind(process: subprocess.Popen) -> list[str]:
    """Who is `at_work` though nobody holds the pipe any more; who has left it is about to end."""
    deadline = time.monotonic() + 20
    while (left := at_work(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


# Its workers read it as well, and import only what they need.
PARENT = """
import sys
from dataclasses import replace

if __name__ == "__main__":
    from flatlib.lab import cli, commands
    from flatlib.lab.experiments import run_many
    from test_experiments import TINY

    def run(name, scale, *, results, **options):
        runs = [replace(TINY, seed=seed, steps=10**7, measure_every=200) for seed in range(3)]
        return run_many(runs, scale, results, progress=False)

    commands.run = run
    sys.exit(cli.main(["run", "mlp-bounds", "--results", sys.argv[1]]))
"""


def _hear_signals() -> None:
    """In a process that starts: the tests may run in the background or under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_command_alone_leaves_no_worker_and_no_lock(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(PARENT)
    runs = [replace(TINY, seed=seed, steps=10**7, measure_every=200) for seed in range(3)]
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_signals,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and steps_of(tmp_path, runs[0]) < 10:
            time.sleep(0.05)
        assert steps_of(tmp_path, runs[0]) >= 10
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]  # ends when every process has left the pipe
        assert not left_behind(process)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    for run in runs:
        with record_of(run, tmp_path).lock():
            pass
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number
        assert errors == "flatlib: stopped; the same command goes on from here\n"


def _memory(process: subprocess.Popen) -> str:
    """What the process has in memory, with the signals that it handles; empty once it is gone."""
    try:
        return "".join(
            Path(f"/proc/{process.pid}/{name}").read_text() for name in ("status", "maps")
        )
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _handles(memory: str, number: int) -> bool:
    caught = re.search(r"^SigCgt:\s*(\w+)", memory, flags=re.MULTILINE)
    return caught is not None and int(caught[1], 16) >> (number - 1) & 1 == 1


@pytest.fixture
def started(tmp_path):
    """``flatlib run`` as a shell starts it, once it handles signals: milliseconds."""
    processes = []

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [shutil.which("flatlib", path=Path(sys.executable).parent), "run", "mlp-bounds"]
            + ["--results", str(tmp_path), "--steps", "10000000", "--no-progress"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        while process.poll() is None and not _handles(memory := _memory(process), signal.SIGTERM):
            time.sleep(0.001)
        assert "libtorch" not in memory, "PyTorch is imported before signals are handled"
        return process

    yield start
    for process in processes:
        if at_work(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.5, 1.0, 2.0])
def test_a_signal_at_the_start_ends_the_command_in_one_line(started, number, seconds):
    """Also while PyTorch is imported, which takes seconds, and while processes are started."""
    process = started()
    time.sleep(seconds)
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == f"{cli.STOPPED}\n"
    assert process.returncode == 128 + number
    assert not left_behind(process)
