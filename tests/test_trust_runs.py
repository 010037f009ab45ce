"""Disturbed runs: stopped, killed, short of disk or memory, resumed with other options.

The ids T1 to T20 are those of docs/trust.md.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch.utils.data import get_worker_info

import foveate
from conftest import make_stripes_folder
from foveate.api.fit import pipeline
from foveate.api.fit.core import fit_recipe
from foveate.cli import main as cli
from foveate.data.dataset import ImageDataset
from foveate.data.loading import BatchSampler, make_loader
from foveate.errors import DiskFull, Diverged, FoveateError, Interrupted, RunError, UsageError
from foveate.inference import features
from foveate.modeling.model import Model
from foveate.modeling.weights import read_tensors
from foveate.recipe import with_settings
from foveate.run import checkpoints
from foveate.run.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from foveate.run.folder import Run
from foveate.training import stepper, trainer
from foveate.training.bad_steps import FOLDER
from foveate.training.data import read_data
from foveate.training.replay import replay
from foveate.utils import files
from foveate.utils.memory import is_out_of_memory
from helpers import (
    ForkServer,
    fit_unevaluated,
    probe_of,
    resume_training,
    train_recipe,
    without_evaluation,
)

RANDOM_SETTINGS = {  # everything that depends on random numbers
    "training.batch_size": 8,
    "training.micro_batch": 3,
    "training.epochs": 3,
    "augment.mixup": 0.2,
    "augment.cutmix": 1.0,
    "augment.erase": 0.3,
    "task": {"name": "classify", "dropout": 0.3},
    "training.ema": 0.9,
}


@pytest.fixture(scope="module")
def random_recipe(quick):
    return with_settings(quick, RANDOM_SETTINGS)


@pytest.fixture(scope="module")
def reference_run(random_recipe, tmp_path_factory):
    """The folder of an undisturbed training, and the (epoch, index) of each image it read."""
    folder, indices = tmp_path_factory.mktemp("runs") / "undisturbed", []
    with pytest.MonkeyPatch.context() as patch:
        record_indices(patch, indices)
        train_recipe(random_recipe, folder)
    return folder, indices


def record_indices(patch, indices):
    original = ImageDataset.__getitem__
    patch.setattr(
        ImageDataset,
        "__getitem__",
        lambda self, index: (indices.append(index), original(self, index))[1],
    )


@dataclass
class StopRequest:
    """Requests a stop, as a signal would, at the n-th check of the trainer.

    With 3 steps in an epoch, the first three checks follow a step, the fourth is in validation and
    the fifth between epochs.
    """

    after: int
    checks: int = 0
    original: object = field(default=trainer.Trainer._stop_requested, repr=False)

    def install(self, patch):
        def check(self_, stop):
            self.checks += 1
            if self.checks == self.after:
                stop.signal = signal.SIGTERM
            return self.original(self_, stop)

        patch.setattr(trainer.Trainer, "_stop_requested", check)


def interrupt(patch, after, start):
    with patch.context() as context:
        StopRequest(after).install(context)
        with pytest.raises(Interrupted) as error:
            start()
    assert error.value.exit_code == 128 + signal.SIGTERM


def fail_on_warning(message):
    pytest.fail(message)


def assert_same_training(one, other):
    """Weights, averages, optimizer, best weights, counters and log of two trainings are equal."""
    (left, right) = (newest_checkpoint(folder, fail_on_warning) for folder in (one, other))
    assert left.tensors.keys() == right.tensors.keys()
    difference = max(
        float((left.tensors[name].double() - right.tensors[name].double()).abs().max())
        for name in left.tensors
    )
    assert difference == 0.0
    assert any(name.startswith("optimizer.") for name in left.tensors)
    assert any(name.startswith("average.") for name in left.tensors)
    states = [
        {name: value for name, value in checkpoint.state.items() if name != "seconds"}
        for checkpoint in (left, right)
    ]
    assert states[0] == states[1]
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in Run(folder).read_metrics()]
        for folder in (one, other)
    ]
    assert rows[0] == rows[1]


# --- resume


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 7, 9])
def test_t1_resume_is_exact(random_recipe, reference_run, tmp_path, monkeypatch, after):
    indices = []
    record_indices(monkeypatch, indices)
    interrupt(monkeypatch, after, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    assert not Run(tmp_path / "cut").finished
    resume_training(tmp_path / "cut")
    assert_same_training(reference_run[0], tmp_path / "cut")
    train_paths = {row["path"] for row in Run(reference_run[0]).splits() if row["split"] == "train"}
    assert after in (4, 9) or indices == reference_run[1]  # validation is repeated
    assert len(train_paths) == 23


def test_t4_a_resume_with_other_threads_is_recorded(random_recipe, tmp_path, monkeypatch):
    interrupt(monkeypatch, 3, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: before + 1)
    resume_training(tmp_path / "cut")
    (decision,) = [each for each in Run(tmp_path / "cut").decisions() if each.field == "threads"]
    assert (decision.value, str(before) in str(decision.reason)) == (before + 1, True)


def test_t1_resume_is_exact_with_sgd_and_in_the_finished_run(random_recipe, tmp_path, monkeypatch):
    recipe = with_settings(random_recipe, {"training.optimizer": "sgd"})
    uninterrupted = fit_recipe(recipe, tmp_path / "whole")
    interrupt(monkeypatch, 4, lambda: fit_recipe(recipe, tmp_path / "cut"))
    resumed = fit_recipe(recipe, resume=tmp_path / "cut")
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert uninterrupted.evaluation.scores == resumed.evaluation.scores


def test_t1_a_crash_between_micro_batches_loses_that_step_only(
    random_recipe, reference_run, tmp_path, monkeypatch
):
    """The fifth step fails in its second micro-batch; training resumes after the fourth."""
    original, batches = trainer.Trainer._accumulate_gradients, []

    def crash_in_fifth_step(self, batch):
        batches.append(batch)
        if len(batches) == 5:
            self.model.task.loss = lambda *_: (_ for _ in ()).throw(ValueError("a crash"))
        return original(self, batch)

    recipe = with_settings(random_recipe, {"training.checkpoint_minutes": 1e-9})  # after every step
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_accumulate_gradients", crash_in_fifth_step)
        with pytest.raises(ValueError, match="a crash"):
            train_recipe(recipe, tmp_path / "cut")
    assert newest_checkpoint(tmp_path / "cut", fail_on_warning).state["step"] == 4
    resume_training(tmp_path / "cut")
    assert_same_training(reference_run[0], tmp_path / "cut")


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_t3_another_number_of_workers_changes_nothing(
    random_recipe, reference_run, tmp_path, monkeypatch, before, after
):
    interrupt(
        monkeypatch,
        5,
        lambda: train_recipe(
            with_settings(random_recipe, {"data.workers": before}), tmp_path / "cut"
        ),
    )
    resume_training(tmp_path / "cut", with_settings(random_recipe, {"data.workers": after}))
    assert_same_training(reference_run[0], tmp_path / "cut")
    assert any(
        row["field"] == "data.workers" for row in Run(tmp_path / "cut").read_json("choices.json")
    )


def test_t4_a_resume_with_other_options_is_refused(random_recipe, tmp_path, monkeypatch):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    before = {
        path: path.read_bytes() for path in sorted((tmp_path / "cut").rglob("*")) if path.is_file()
    }
    for settings, message in (
        (
            {"training.batch_size": 16, "seed": 1},
            r"training.batch_size is 8, not 16; seed is 0, not 1",
        ),
        ({"training.lr": 0.5}, "training.lr"),
        ({"backbone.name": "test_resnet"}, "backbone.name"),
        ({"data.path": str(tmp_path)}, "data.path"),
    ):
        with pytest.raises(UsageError, match=message):
            fit_recipe(with_settings(random_recipe, settings), resume=tmp_path / "cut")
    assert {
        path: path.read_bytes() for path in sorted((tmp_path / "cut").rglob("*")) if path.is_file()
    } == before


def test_t4_another_number_of_processes_is_recorded(random_recipe, tmp_path, monkeypatch):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    checkpoint = newest_checkpoint(tmp_path / "cut", fail_on_warning)
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    save_checkpoint(
        tmp_path / "cut",
        "step-1",
        Checkpoint(checkpoint.tensors, {**checkpoint.state, "processes": 4}),
    )
    resume_training(tmp_path / "cut")
    reasons = {
        row["field"]: row["reason"] for row in Run(tmp_path / "cut").read_json("choices.json")
    }
    assert "with 4" in reasons["processes"]
    assert "bit for bit" in reasons["processes"]


def test_t5_resuming_twice_and_resuming_a_finished_run(
    random_recipe, reference_run, tmp_path, monkeypatch, capsys
):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    interrupt(monkeypatch, 3, lambda: resume_training(tmp_path / "cut"))
    resume_training(tmp_path / "cut")
    assert_same_training(reference_run[0], tmp_path / "cut")
    fit_recipe(
        random_recipe, resume=tmp_path / "cut"
    )  # all epochs are done: it is evaluated and closed
    before = (tmp_path / "cut" / "finished.json").read_bytes()
    assert cli._run(["fit", "--resume", str(tmp_path / "cut")]) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert (tmp_path / "cut" / "finished.json").read_bytes() == before


def test_t6_a_mistyped_run_never_starts_a_new_one(random_recipe, tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cats-full-1"))
    assert (
        cli._run(["fit", str(random_recipe.data.path), "--resume", str(tmp_path / "cats-ful-1")])
        == 2
    )
    hint = f"did you mean {str(tmp_path / 'cats-full-1')!r}?"
    assert f"  try: {hint}\n" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"did you mean '{tmp_path / 'cats-full-1'}'"):
        fit_recipe(None, resume=tmp_path / "cats-ful-1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cats-full-1"]


def test_t8_leftovers_of_a_kill_are_removed_and_never_resumed_from(
    random_recipe, reference_run, tmp_path, monkeypatch
):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    checkpoints = tmp_path / "cut" / "checkpoints"
    (original,) = checkpoints.iterdir()
    shutil.copytree(original, checkpoints / ".aside-77-step-000000009-000002")
    (checkpoints / ".aside-77-step-000000009-000002" / "manifest.json").unlink()
    for name in (
        "step-000000008-000002",
        "9",
        "step-000000007-000002.tmp",
    ):  # folders that only look like checkpoints
        (checkpoints / name).mkdir()
    (checkpoints / "step-000000008-000002" / "manifest.json").write_text('{"files": {}, "run": {}}')
    (tmp_path / "cut" / ".aside-77-recipe.yaml").write_text("epochs: 1")
    resume_training(tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob(".aside-*"))
    assert_same_training(reference_run[0], tmp_path / "cut")


def test_t12_a_damaged_checkpoint_is_replaced_by_the_one_before(
    random_recipe, reference_run, tmp_path, capsys
):
    train_recipe(random_recipe, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    with (newest / "tensors.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01\x02\x03")
    resume_training(tmp_path / "run")
    assert f"{newest.name} is damaged" in capsys.readouterr().out
    shutil.rmtree(newest)
    resume_training(tmp_path / "run")
    assert_same_training(reference_run[0], tmp_path / "run")


@pytest.mark.parametrize("name", ["recipe.yaml", "classes.json", "splits.csv"])
def test_t12_the_inputs_of_a_training_may_not_change(random_recipe, tmp_path, monkeypatch, name):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    file = tmp_path / "cut" / name
    content = file.read_bytes()
    for damaged in (
        content.replace(b"batch_size: 8", b"batch_size: 4") + b"\n",
        content[: len(content) // 2],
        None,
    ):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        with pytest.raises(FoveateError):
            fit_recipe(None, resume=tmp_path / "cut")
    file.write_bytes(content)
    resume_training(tmp_path / "cut")


def test_t12_changed_images_stop_a_resume(quick, tmp_path, monkeypatch):
    images = make_stripes_folder(tmp_path / "data")
    interrupt(
        monkeypatch,
        2,
        lambda: train_recipe(with_settings(quick, {"data.path": str(images)}), tmp_path / "run"),
    )
    (images / "lying" / "00.png").write_bytes((images / "upright" / "00.png").read_bytes())
    with pytest.raises(RunError, match="changed"):
        fit_recipe(None, resume=tmp_path / "run")


def test_t12_each_file_of_a_finished_run(quick, tmp_path):
    """A file is truncated, removed or changed by a byte.

    The predictions stay the same, or there is an error message; never another prediction or a crash.
    """
    images = make_stripes_folder(tmp_path / "data", per_class=60)
    settings = {
        "data.path": str(images),
        "tuning": "probe",
        "data.val": 0.5,
        "data.test": 0,
        "data.leakage_audit": False,
        "task.features": "pooled",
    }
    run = fit_unevaluated(probe_of(quick, settings), tmp_path / "run").run
    queries = sorted(images.rglob("*.png"))[:4]

    def predict_rows():
        return json.dumps(
            [prediction.row() for prediction in foveate.predict(run, queries, device="cpu")]
        )

    before, refusals = predict_rows(), set()
    assert (run / "calibration.json").is_file()
    files = (path for path in run.iterdir() if path.is_file())
    for file in sorted(path for path in files if path.stat().st_size):  # the lock is empty
        content = file.read_bytes()
        middle = len(content) // 2
        for damaged in (
            content[:middle],
            None,
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        ):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            try:
                assert predict_rows() == before, file
            except FoveateError:
                refusals.add(file.name)
            file.write_bytes(content)
    assert refusals >= {
        "recipe.yaml",
        "classes.json",
        "model.safetensors",
        "calibration.json",
        "feature_space.safetensors",
        "finished.json",
    }
    assert predict_rows() == before


# --- the disk


@contextmanager
def limit_file_size(max_bytes):
    """Limit the size of files; the error differs from that of a full disk in its number."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft_limit, hard_limit))


def test_t10_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    save_checkpoint(run.folder, "step-1", Checkpoint({"a": torch.zeros(1000)}, {"step": 1}))
    with (
        limit_file_size(2_000_000),
        pytest.raises(
            DiskFull, match=r"File too large \(4.0 MB needed, .* MB free\).*free some space"
        ) as error,
    ):
        save_checkpoint(
            run.folder, "step-2", Checkpoint({"a": torch.zeros(1_000_000)}, {"step": 2})
        )
    assert error.value.exit_code == 3
    assert str(run.folder / "checkpoints" / "step-2") in str(error.value)
    assert [path.name for path in run.folder.rglob("*") if "aside" in path.name] == []
    assert newest_checkpoint(run.folder, fail_on_warning).state == {"step": 1}


def test_t10_log_report_and_cache(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", "x")
    run.append_metrics({"epoch": 1})
    run.write_text("report.html", "old")
    (run.folder / "metrics.jsonl").write_bytes(b"\n" * 2_000_000)
    with limit_file_size(2_000_000):
        with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
            run.append_metrics({"epoch": 2})
        with pytest.raises(DiskFull, match=r"report\.html"):
            run.write_text("report.html", "new" * 1_000_000)
        features._write_cache(
            tmp_path / "cache" / "f.safetensors", torch.zeros(1_000_000)
        )  # a failed write costs time, not the result
    assert (run.folder / "report.html").read_text() == "old"
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("target", ["onnx", "openvino", "torch"])
def test_t10_an_export_that_does_not_fit_is_an_error_message(
    reference_run, tmp_path, target, capsys
):
    arguments = ["export", str(reference_run[0]), "--to", target, "--out", str(tmp_path / "out")]
    with limit_file_size(3_000):
        assert cli._run(arguments) in (1, 3)
    assert "a bug in Foveate" not in capsys.readouterr().err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_t10_a_full_disk_has_its_exit_code_whoever_reports_it():
    wrapped = RuntimeError("cannot write: No space left on device (os error 28)")
    assert cli._unexpected(wrapped).exit_code == DiskFull.exit_code == 3
    assert cli._unexpected(OSError(5, "Input/output error")).why is None


def test_t10_a_training_resumes_after_a_full_disk(
    random_recipe, reference_run, tmp_path, monkeypatch, capsys
):
    flush, flushed = files._flush, []

    def flush_until_full(path):
        flushed.append(path)
        if (
            path.name == "tensors.safetensors"
            and sum(file.name == "tensors.safetensors" for file in flushed) == 2
        ):
            raise OSError(28, os.strerror(28))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_flush", flush_until_full)
        with pytest.raises(DiskFull, match="No space left on device"):
            train_recipe(random_recipe, tmp_path / "cut")
    assert newest_checkpoint(tmp_path / "cut", fail_on_warning).state["epoch"] == 1
    resume_training(tmp_path / "cut")
    assert_same_training(reference_run[0], tmp_path / "cut")


def test_t11_training_does_not_start_without_space_for_checkpoints(
    random_recipe, tmp_path, monkeypatch
):
    paths = []
    monkeypatch.setattr(
        checkpoints, "free_disk_bytes", lambda path: (paths.append(path), 11_000_000)[1]
    )
    monkeypatch.setattr(trainer.Trainer, "_step", lambda *_: pytest.fail("a step"))
    with pytest.raises(DiskFull, match=r"3 checkpoints of \d+ MB and the logs may take"):
        train_recipe(random_recipe, tmp_path / "run")
    assert paths == [tmp_path / "run"]  # the disk of the run, no other


def test_t11_the_required_space_is_enough(random_recipe, reference_run):
    """A checkpoint takes no more space than was estimated before the first step."""
    job = pipeline.reopen_job(Run(reference_run[0]))
    estimated = trainer.Trainer(
        job.model, job.recipe, job.run, job.dataset("train"), None, job.device
    ).checkpoint_bytes()
    sizes = [
        sum(file.stat().st_size for file in folder.iterdir())
        for folder in (reference_run[0] / "checkpoints").iterdir()
    ]
    assert max(sizes) <= 1.1 * estimated + 100_000


# --- signals


@pytest.fixture(scope="module")
def fork_server():
    """Signals are sent to processes of their own.

    In a worker of the test suite, the first signal sometimes ended the worker (docs/log.md).
    """
    process = ForkServer()
    yield process
    process.close()


def fit_arguments(recipe, run):
    settings = {
        "training.head_init": "random",
        "training.channels_last": False,
        "training.precision": "fp32",
        "training.batch_size": 8,
    }
    options = [
        "--backbone",
        "test_efficientnet",
        "--weights",
        "none",
        "--size",
        "32",
        "--tuning",
        "full",
        "--epochs",
        "2",
        "--device",
        "cpu",
    ]
    return [
        "fit",
        recipe.data.path,
        "--out",
        str(run),
        *options,
        *(f"--set={name}={value}" for name, value in settings.items()),
    ]


PHASES = {  # function that triggers the signal, and at which of its calls
    "scan": (("foveate.data.scan", "_require_every_class"), 1),
    "warm-up": (("foveate.api.fit.pipeline", "plan_training"), 1),
    "step": (("foveate.training.trainer", "Trainer._accumulate_gradients"), 4),
    "validation": (("foveate.training.trainer", "Trainer._validate"), 1),
    "checkpoint": (("foveate.run.checkpoints", "checksum"), 2),
    "evaluation": (("foveate.api.fit.pipeline", "evaluate"), 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_t14_a_signal_in_every_phase(quick, fork_server, tmp_path, phase):
    trigger, nth_call = PHASES[phase]
    status, output = fork_server.run(
        fit_arguments(quick, tmp_path / "run"), trigger, [signal.SIGTERM], nth_call
    )
    assert status == 143, output
    assert "stopped" in output
    leftovers = [
        path for path in tmp_path.rglob("*") if "aside" in path.name or path.name == "lock.json"
    ]
    assert leftovers == []
    run = Run(tmp_path / "run")
    if phase in ("step", "validation", "checkpoint"):
        checkpoint = newest_checkpoint(run.folder, fail_on_warning)
        assert checkpoint.state["step"] in (3, 4)  # one step after the signal at the most
        with without_evaluation():
            assert cli._run(["fit", "--resume", str(run.folder)]) == 0
    assert run.finished == (phase in ("step", "validation", "checkpoint", "evaluation"))


def test_t14_a_signal_in_an_export_leaves_no_file(quick, fork_server, tmp_path):
    recipe = probe_of(quick, {"tuning": "probe", "data.leakage_audit": False})
    fit_unevaluated(recipe, tmp_path / "run")
    arguments = ["export", tmp_path / "run", "--out", tmp_path / "files"]
    trigger = ("foveate.deploy.targets.onnx", "Onnx.open")
    status, output = fork_server.run(arguments, trigger, [signal.SIGTERM])
    assert status == 143, output
    assert list((tmp_path / "files").iterdir()) == []


def test_t15_usr1_saves_and_exits_and_a_second_ctrl_c_does_not_wait(quick, fork_server, tmp_path):
    trigger = ("foveate.training.trainer", "Trainer._accumulate_gradients")
    arguments = fit_arguments(quick, tmp_path / "one")
    status, output = fork_server.run(
        arguments, trigger, [signal.SIGUSR1], nth_call=2
    )  # what SLURM sends
    assert status == 128 + signal.SIGUSR1, output
    assert "stopped by SIGUSR1; the training is saved" in output
    assert newest_checkpoint(tmp_path / "one", fail_on_warning).state["step"] == 2
    arguments = fit_arguments(quick, tmp_path / "two")
    status, output = fork_server.run(arguments, trigger, [signal.SIGINT, signal.SIGINT])
    assert status == 130, output
    assert (
        newest_checkpoint(tmp_path / "two", fail_on_warning) is None
    )  # it did not wait for the step
    assert not list(tmp_path.rglob("lock.json"))


# --- numbers and memory


def test_t17_a_non_finite_step_leaves_no_trace_and_can_be_replayed(
    random_recipe, tmp_path, monkeypatch
):
    """An image of the third step is NaN; it must not reach weights, statistics or averages.

    Replaying the saved step gives NaN again.
    """
    original, before, after = trainer.Trainer._step, {}, {}

    def step_with_nan(self, batch):
        if self.state.step == 2:
            batch = batch.normalized()
            batch.images[1, 0, 3, 3] = float("nan")
            before.update(
                {
                    name: tensor.clone()
                    for name, tensor in {**self.live, **self.average.tensors}.items()
                }
            )
        original(self, batch)
        if self.state.step == 3:
            after.update(
                {
                    name: tensor.clone()
                    for name, tensor in {**self.live, **self.average.tensors}.items()
                }
            )

    monkeypatch.setattr(trainer.Trainer, "_step", step_with_nan)
    outcome = train_recipe(random_recipe, tmp_path / "run")
    assert outcome.steps == 9
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(bool(tensor.isfinite().all()) for tensor in outcome.tensors.values())
    (saved,) = (tmp_path / "run" / FOLDER).iterdir()
    info = json.loads((saved / "step.json").read_text())
    assert (info["step"], info["loss"], len(info["images"])) == (2, "nan", 8)
    assert info["images"][1].endswith(".png")
    assert math.isnan(replay(saved)[0])


def test_t17_a_replayed_step_gives_the_same_loss_and_gradient(random_recipe, tmp_path, monkeypatch):
    """A good step is reported as bad: dropout, mixing and accumulation are replayed bit for bit."""
    original, expected = trainer.Trainer.compute_gradients, []

    def report_bad(self, batch, before):
        loss, norm = original(self, batch, before)
        if self.state.step != 4:
            return loss, norm
        expected.append((loss, norm))
        return float("inf"), norm

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "compute_gradients", report_bad)
        train_recipe(random_recipe, tmp_path / "run")
    (saved,) = (tmp_path / "run" / FOLDER).iterdir()
    assert [replay(saved)] == expected
    shutil.copytree(saved, tmp_path / "elsewhere" / "x")
    (saved / "step.json").unlink()
    with pytest.raises(UsageError, match="no saved step"):
        replay(saved)


def test_t17_training_stops_after_several_in_a_row_and_names_the_images(
    quick, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        stepper,
        "mix_batch",
        lambda batch, recipe: replace(
            batch.normalized(), images=torch.full(batch.images.shape, math.inf)
        ),
    )
    with pytest.raises(Diverged, match=r"NaN or infinite in 2 steps in a row.*\.png.*bad_steps"):
        fit_recipe(with_settings(quick, {"training.max_bad_steps": 2}), tmp_path / "run")
    assert not Run(tmp_path / "run").finished
    assert len(list((tmp_path / "run" / FOLDER).iterdir())) == 1


def limit_memory(patch, max_images, first_pass=0):
    """Run out of memory with more than `max_images` images, from a given training pass on.

    Returns:
        The batch sizes of the training passes, filled as they happen.
    """
    original, batch_sizes = Model.forward, []

    def forward(self, batch):
        if self.training:
            batch_sizes.append(len(batch))
        if len(batch_sizes) >= first_pass and len(batch) > max_images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, batch)

    patch.setattr(Model, "forward", forward)
    return batch_sizes


def test_t19_out_of_memory_halves_the_micro_batch_and_not_the_batch(
    random_recipe, tmp_path, monkeypatch, capsys
):
    """The weights equal those of a run that was started with the smaller micro-batch."""
    with monkeypatch.context() as patch:
        limit_memory(patch, 4)
        train_recipe(
            with_settings(random_recipe, {"training.micro_batch": 8}), tmp_path / "cramped"
        )
    max_images = newest_checkpoint(tmp_path / "cramped", fail_on_warning).state["max_images"]
    assert max_images in (3, 4)  # half of 7, or of 8: the epoch has 23 images
    assert f"training.micro_batch = {max_images} (out of memory with" in capsys.readouterr().out
    train_recipe(
        with_settings(random_recipe, {"training.micro_batch": max_images}), tmp_path / "stated"
    )
    one, other = (
        newest_checkpoint(tmp_path / name, fail_on_warning).tensors
        for name in ("cramped", "stated")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_t19_a_late_out_of_memory_is_remembered_on_resume(random_recipe, tmp_path, monkeypatch):
    recipe = with_settings(random_recipe, {"training.micro_batch": 8})
    with monkeypatch.context() as patch:
        batch_sizes = limit_memory(patch, 4, first_pass=5)
        interrupt(monkeypatch, 8, lambda: train_recipe(recipe, tmp_path / "cut"))
        passes = len(batch_sizes)
        resume_training(tmp_path / "cut")
        assert max(batch_sizes[passes:]) <= 4
    state = newest_checkpoint(tmp_path / "cut", fail_on_warning).state
    assert state["step"] == 9
    assert state["max_images"] in (3, 4)


def test_t19_predictions_are_computed_in_smaller_batches(quick, stripes, tmp_path, monkeypatch):
    run = fit_unevaluated(quick, tmp_path / "run").run
    images = sorted(stripes.rglob("*.png"))
    before = [prediction.row() for prediction in foveate.predict(run, images, device="cpu")]
    limit_memory(monkeypatch, 3)
    after = [prediction.row() for prediction in foveate.predict(run, images, device="cpu")]
    assert [row["path"] for row in after] == [row["path"] for row in before]
    assert [row["confidence"] for row in after] == pytest.approx(
        [row["confidence"] for row in before], abs=1e-6
    )


def test_t19_one_image_that_does_not_fit_is_an_error_message(
    quick, stripes, tmp_path, monkeypatch, capsys
):
    run = fit_unevaluated(quick, tmp_path / "run").run
    limit_memory(monkeypatch, 0)
    assert cli._run(["predict", str(run), str(stripes), "--device", "cpu"]) == 1
    assert "out of memory, even with one image" in capsys.readouterr().err
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


class DyingDataset(ImageDataset):
    """Kills the loader process that reads image 7."""

    def __getitem__(self, index):
        if index[1] == 7 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.fixture
def loaders_end_at_once(monkeypatch):
    """Do not wait five seconds for each process of a loader that is left behind."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    yield
    gc.collect()


def test_t20_a_loader_process_that_dies_is_replaced(quick, tmp_path, capsys, loaders_end_at_once):
    job = pipeline.prepare_job(quick, read_data(quick), tmp_path / "run")
    dataset = job.dataset("train")
    dying_dataset = DyingDataset(
        dataset.samples, dataset.cache, dataset.transform, dataset.encode, dataset.seed
    )
    samplers = [BatchSampler(len(dataset), 3, seed=1) for _ in range(2)]
    batches, expected = (
        list(make_loader(dying_dataset, samplers[0], 2)),
        list(make_loader(dataset, samplers[1], 0)),
    )
    assert [batch.indices.tolist() for batch in batches] == [
        batch.indices.tolist() for batch in expected
    ]
    assert all(
        torch.equal(one.images, other.images) for one, other in zip(batches, expected, strict=True)
    )
    assert "shared memory" in capsys.readouterr().out


def test_t20_an_error_of_a_transform_is_not_mistaken_for_a_dead_loader(
    quick, tmp_path, loaders_end_at_once
):
    job = pipeline.prepare_job(quick, read_data(quick), tmp_path / "run")
    dataset = job.dataset("train")
    broken = ImageDataset(
        dataset.samples,
        dataset.cache,
        lambda *_: (_ for _ in ()).throw(RuntimeError("mine")),
        dataset.encode,
        0,
    )
    with pytest.raises(RuntimeError, match="mine"):
        list(make_loader(broken, BatchSampler(len(dataset), 3), 2))


def test_t16_a_checkpoint_of_another_version_is_refused(random_recipe, tmp_path, monkeypatch):
    interrupt(monkeypatch, 2, lambda: train_recipe(random_recipe, tmp_path / "cut"))
    run = Run(tmp_path / "cut")
    checkpoint = newest_checkpoint(run.folder, fail_on_warning)
    save_checkpoint(
        run.folder,
        "step-999999999-0",
        Checkpoint(checkpoint.tensors, {**checkpoint.state, "momentum": 3}),
    )
    with pytest.raises(RunError, match="begun by another version"):
        resume_training(tmp_path / "cut")
