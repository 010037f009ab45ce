"""Runs that are disturbed: stopped, killed, short of disk or memory, resumed by other words. By the ids of docs/trust.md."""

from __future__ import annotations

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
from conftest import stripes_folder
from foveate.api.fit import pipeline as _fitting
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
from foveate.training import trainer
from foveate.training.bad_steps import FOLDER
from foveate.training.data import read_data
from foveate.training.replay import replay
from foveate.utils import files
from foveate.utils.memory import is_out_of_memory
from helpers import WarmProcess, evaluation_left_out, fit_unevaluated, gone_on, trained

HARD = {  # everything that chance touches
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
def hard(quick):
    return with_settings(quick, HARD)


@pytest.fixture(scope="module")
def whole(hard, tmp_path_factory):
    """A training that nobody has disturbed, and the (epoch, index) of each picture that it was shown."""
    folder, shown = tmp_path_factory.mktemp("runs") / "whole", []
    with pytest.MonkeyPatch.context() as patch:
        watched(patch, shown)
        trained(hard, folder)
    return folder, shown


def watched(patch, shown):
    real = ImageDataset.__getitem__
    patch.setattr(
        ImageDataset, "__getitem__", lambda self, place: (shown.append(place), real(self, place))[1]
    )


@dataclass
class Fuse:
    """Asks to stop, as a signal would, when the trainer looks for the n-th time. With 3 steps in an epoch the first three looks are
    behind a step, the fourth is in validation, the fifth between epochs."""

    after: int
    looked: int = 0
    real: object = field(default=trainer.Trainer._stop_requested, repr=False)

    def put(self, patch):
        def look(self_, stop):
            self.looked += 1
            if self.looked == self.after:
                stop.signal = signal.SIGTERM
            return self.real(self_, stop)

        patch.setattr(trainer.Trainer, "_stop_requested", look)


def interrupted(patch, after, begin):
    with patch.context() as inner:
        Fuse(after).put(inner)
        with pytest.raises(Interrupted) as caught:
            begin()
    assert caught.value.exit_code == 128 + signal.SIGTERM


def refused(message):
    pytest.fail(message)


def same(one, other):
    """Everything that a training leaves: weights, averages, optimiser, kept weights, counters, and the lines of its log."""
    (left, right) = (newest_checkpoint(folder, refused) for folder in (one, other))
    assert left.tensors.keys() == right.tensors.keys()
    worst = max(
        float((left.tensors[name].double() - right.tensors[name].double()).abs().max())
        for name in left.tensors
    )
    assert worst == 0.0
    assert any(name.startswith("optimizer.") for name in left.tensors)
    assert any(name.startswith("average.") for name in left.tensors)
    states = [
        {name: value for name, value in each.state.items() if name != "seconds"}
        for each in (left, right)
    ]
    assert states[0] == states[1]
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in Run(folder).read_metrics()]
        for folder in (one, other)
    ]
    assert rows[0] == rows[1]


# --- resume


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 7, 9])
def test_t1_resume_is_exact(hard, whole, tmp_path, monkeypatch, after):
    shown = []
    watched(monkeypatch, shown)
    interrupted(monkeypatch, after, lambda: trained(hard, tmp_path / "cut"))
    assert not Run(tmp_path / "cut").finished
    gone_on(tmp_path / "cut")
    same(whole[0], tmp_path / "cut")
    taught = {row["path"] for row in Run(whole[0]).splits() if row["split"] == "train"}
    assert after in (4, 9) or shown == whole[1]  # validation begins again
    assert len(taught) == 23


def test_t1_resume_is_exact_with_sgd_and_in_the_finished_run(hard, tmp_path, monkeypatch):
    recipe = with_settings(hard, {"training.optimizer": "sgd"})
    whole = fit_recipe(recipe, tmp_path / "whole")
    interrupted(monkeypatch, 4, lambda: fit_recipe(recipe, tmp_path / "cut"))
    again = fit_recipe(recipe, resume=tmp_path / "cut")
    one, other = (read_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert whole.evaluation.scores == again.evaluation.scores


def test_t1_a_crash_between_the_portions_of_a_step_costs_that_step_alone(
    hard, whole, tmp_path, monkeypatch
):
    """The fifth step dies in its second portion; the checkpoint after the fourth is gone on from."""
    real, seen = trainer.Trainer._accumulate_gradients, []

    def crashed(self, batch):
        seen.append(batch)
        if len(seen) == 5:
            self.model.task.loss = lambda *_: (_ for _ in ()).throw(ValueError("a crash"))
        return real(self, batch)

    recipe = with_settings(hard, {"training.checkpoint_minutes": 1e-9})  # after every step
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_accumulate_gradients", crashed)
        with pytest.raises(ValueError, match="a crash"):
            trained(recipe, tmp_path / "cut")
    assert newest_checkpoint(tmp_path / "cut", refused).state["step"] == 4
    gone_on(tmp_path / "cut")
    same(whole[0], tmp_path / "cut")


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_t3_another_number_of_workers_changes_nothing(
    hard, whole, tmp_path, monkeypatch, before, after
):
    interrupted(
        monkeypatch,
        5,
        lambda: trained(with_settings(hard, {"data.workers": before}), tmp_path / "cut"),
    )
    gone_on(tmp_path / "cut", with_settings(hard, {"data.workers": after}))
    same(whole[0], tmp_path / "cut")
    assert any(
        row["field"] == "data.workers" for row in Run(tmp_path / "cut").read_json("choices.json")
    )


def test_t4_a_resume_by_other_words_is_refused(hard, tmp_path, monkeypatch):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cut"))
    before = {
        path: path.read_bytes() for path in sorted((tmp_path / "cut").rglob("*")) if path.is_file()
    }
    for words, said in (
        (
            {"training.batch_size": 16, "seed": 1},
            r"training.batch_size is 8, not 16; seed is 0, not 1",
        ),
        ({"training.lr": 0.5}, "training.lr"),
        ({"backbone.name": "test_resnet"}, "backbone.name"),
        ({"data.path": str(tmp_path)}, "data.path"),
    ):
        with pytest.raises(UsageError, match=said):
            fit_recipe(with_settings(hard, words), resume=tmp_path / "cut")
    assert {
        path: path.read_bytes() for path in sorted((tmp_path / "cut").rglob("*")) if path.is_file()
    } == before


def test_t4_another_number_of_processes_is_written_down(hard, tmp_path, monkeypatch):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cut"))
    checkpoint = newest_checkpoint(tmp_path / "cut", refused)
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    save_checkpoint(
        tmp_path / "cut",
        "step-1",
        Checkpoint(checkpoint.tensors, {**checkpoint.state, "processes": 4}),
    )
    gone_on(tmp_path / "cut")
    reasons = {
        row["field"]: row["reason"] for row in Run(tmp_path / "cut").read_json("choices.json")
    }
    assert "with 4" in reasons["processes"]
    assert "bit for bit" in reasons["processes"]


def test_t5_twice_in_a_row_and_when_it_is_finished(hard, whole, tmp_path, monkeypatch, capsys):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cut"))
    interrupted(monkeypatch, 3, lambda: gone_on(tmp_path / "cut"))
    gone_on(tmp_path / "cut")
    same(whole[0], tmp_path / "cut")
    fit_recipe(hard, resume=tmp_path / "cut")  # all epochs are done: it is evaluated and closed
    before = (tmp_path / "cut" / "finished.json").read_bytes()
    assert cli._run(["fit", "--resume", str(tmp_path / "cut")]) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert (tmp_path / "cut" / "finished.json").read_bytes() == before


def test_t6_a_mistyped_run_is_never_begun_anew(hard, tmp_path, monkeypatch, capsys):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cats-full-1"))
    assert cli._run(["fit", str(hard.data.path), "--resume", str(tmp_path / "cats-ful-1")]) == 2
    hint = f"did you mean {str(tmp_path / 'cats-full-1')!r}?"
    assert f"  try: {hint}\n" in capsys.readouterr().err
    with pytest.raises(UsageError, match=f"did you mean '{tmp_path / 'cats-full-1'}'"):
        fit_recipe(None, resume=tmp_path / "cats-ful-1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cats-full-1"]


def test_t8_what_a_kill_left_behind_is_swept_and_never_gone_on_from(
    hard, whole, tmp_path, monkeypatch
):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cut"))
    checkpoints = tmp_path / "cut" / "checkpoints"
    (real,) = checkpoints.iterdir()
    shutil.copytree(real, checkpoints / ".aside-77-step-000000009-000002")
    (checkpoints / ".aside-77-step-000000009-000002" / "manifest.json").unlink()
    for name in (
        "step-000000008-000002",
        "9",
        "step-000000007-000002.tmp",
    ):  # folders that only look like checkpoints
        (checkpoints / name).mkdir()
    (checkpoints / "step-000000008-000002" / "manifest.json").write_text('{"files": {}, "run": {}}')
    (tmp_path / "cut" / ".aside-77-recipe.yaml").write_text("epochs: 1")
    gone_on(tmp_path / "cut")
    assert not list((tmp_path / "cut").rglob(".aside-*"))
    same(whole[0], tmp_path / "cut")


def test_t12_a_training_goes_back_to_the_checkpoint_before(hard, whole, tmp_path, capsys):
    trained(hard, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    with (newest / "tensors.safetensors").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01\x02\x03")
    gone_on(tmp_path / "run")
    assert f"{newest.name} is damaged" in capsys.readouterr().out
    shutil.rmtree(newest)
    gone_on(tmp_path / "run")
    same(whole[0], tmp_path / "run")


@pytest.mark.parametrize("name", ["recipe.yaml", "classes.json", "splits.csv"])
def test_t12_what_a_training_was_begun_with_may_not_change(hard, tmp_path, monkeypatch, name):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cut"))
    file = tmp_path / "cut" / name
    content = file.read_bytes()
    for harmed in (
        content.replace(b"batch_size: 8", b"batch_size: 4") + b"\n",
        content[: len(content) // 2],
        None,
    ):
        file.unlink() if harmed is None else file.write_bytes(harmed)
        with pytest.raises(FoveateError):
            fit_recipe(None, resume=tmp_path / "cut")
    file.write_bytes(content)
    gone_on(tmp_path / "cut")


def test_t12_pictures_that_changed_stop_a_resume(quick, tmp_path, monkeypatch):
    pictures = stripes_folder(tmp_path / "data")
    interrupted(
        monkeypatch,
        2,
        lambda: trained(with_settings(quick, {"data.path": str(pictures)}), tmp_path / "run"),
    )
    (pictures / "lying" / "00.png").write_bytes((pictures / "upright" / "00.png").read_bytes())
    with pytest.raises(RunError, match="changed"):
        fit_recipe(None, resume=tmp_path / "run")


def test_t12_each_file_of_a_finished_run(quick, tmp_path):
    """Cut, removed or changed by a byte: the same answer as before, or a sentence; never another answer, nor a crash."""
    pictures = stripes_folder(tmp_path / "data", each=60)
    words = {
        "data.path": str(pictures),
        "tuning": "probe",
        "data.val": 0.5,
        "data.test": 0,
        "data.leakage_audit": False,
        "task.features": "pooled",
    }
    run = fit_unevaluated(with_settings(quick, words), tmp_path / "run").run
    asked = sorted(pictures.rglob("*.png"))[:4]

    def told():
        return json.dumps([answer.row() for answer in foveate.predict(run, asked, device="cpu")])

    before, refusals = told(), set()
    assert (run / "calibration.json").is_file()
    files = (path for path in run.iterdir() if path.is_file())
    for file in sorted(path for path in files if path.stat().st_size):  # the lock is empty
        content = file.read_bytes()
        middle = len(content) // 2
        for harmed in (
            content[:middle],
            None,
            content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        ):
            file.unlink() if harmed is None else file.write_bytes(harmed)
            try:
                assert told() == before, file
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
    assert told() == before


# --- the disk


@contextmanager
def files_of(most):
    """No file may become larger than `most` bytes: what the system says is what it says of a full disk, but for the number."""
    soft, hard_ = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard_))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard_))


def test_t10_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    run = Run.create(tmp_path / "run", "x")
    save_checkpoint(run.folder, "step-1", Checkpoint({"a": torch.zeros(1000)}, {"step": 1}))
    with (
        files_of(2_000_000),
        pytest.raises(
            DiskFull, match=r"File too large \(4.0 MB needed, .* MB free\).*free some space"
        ) as caught,
    ):
        save_checkpoint(
            run.folder, "step-2", Checkpoint({"a": torch.zeros(1_000_000)}, {"step": 2})
        )
    assert caught.value.exit_code == 3
    assert str(run.folder / "checkpoints" / "step-2") in str(caught.value)
    assert [path.name for path in run.folder.rglob("*") if "aside" in path.name] == []
    assert newest_checkpoint(run.folder, refused).state == {"step": 1}


def test_t10_log_report_and_cache(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", "x")
    run.append_metrics({"epoch": 1})
    run.write_text("report.html", "old")
    (run.folder / "metrics.jsonl").write_bytes(b"\n" * 2_000_000)
    with files_of(2_000_000):
        with pytest.raises(DiskFull, match=r"metrics\.jsonl"):
            run.append_metrics({"epoch": 2})
        with pytest.raises(DiskFull, match=r"report\.html"):
            run.write_text("report.html", "new" * 1_000_000)
        features._write_cache(
            tmp_path / "cache" / "f.safetensors", torch.zeros(1_000_000)
        )  # costs time, not the result
    assert (run.folder / "report.html").read_text() == "old"
    assert list((tmp_path / "cache").iterdir()) == []


def test_t10_a_training_that_met_a_full_disk_goes_on_when_there_is_room(
    hard, whole, tmp_path, monkeypatch, capsys
):
    flush, saved = files._flush, []

    def full(path):
        saved.append(path)
        if (
            path.name == "tensors.safetensors"
            and sum(each.name == "tensors.safetensors" for each in saved) == 2
        ):
            raise OSError(28, os.strerror(28))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_flush", full)
        with pytest.raises(DiskFull, match="No space left on device"):
            trained(hard, tmp_path / "cut")
    assert newest_checkpoint(tmp_path / "cut", refused).state["epoch"] == 1
    gone_on(tmp_path / "cut")
    same(whole[0], tmp_path / "cut")


def test_t11_no_step_is_taken_where_the_checkpoints_will_not_fit(hard, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        checkpoints, "free_disk_bytes", lambda path: (asked.append(path), 11_000_000)[1]
    )
    monkeypatch.setattr(trainer.Trainer, "_step", lambda *_: pytest.fail("a step"))
    with pytest.raises(DiskFull, match=r"3 checkpoints of \d+ MB and the logs may take"):
        trained(hard, tmp_path / "run")
    assert asked == [tmp_path / "run"]  # the disk of the run, no other


def test_t11_the_room_that_is_asked_for_is_enough(hard, whole):
    """What a checkpoint takes is no more than what was reckoned before the first step."""
    job = _fitting.reopen_job(Run(whole[0]))
    reckoned = trainer.Trainer(
        job.model, job.recipe, job.run, job.dataset("train"), None, job.device
    ).checkpoint_bytes()
    sizes = [
        sum(file.stat().st_size for file in folder.iterdir())
        for folder in (whole[0] / "checkpoints").iterdir()
    ]
    assert max(sizes) <= 1.1 * reckoned + 100_000


# --- signals


@pytest.fixture(scope="module")
def warm():
    """Signals strike programs of their own: in a worker of the suite the first one took the worker
    along now and then (docs/log.md)."""
    process = WarmProcess()
    yield process
    process.close()


def words_of(recipe, run):
    sets = {
        "training.head_init": "random",
        "training.channels_last": False,
        "training.precision": "fp32",
        "training.batch_size": 8,
    }
    asked = [
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
        *asked,
        *(f"--set={name}={value}" for name, value in sets.items()),
    ]


PHASES = {  # where the signal comes: when it is called for the n-th time
    "scan": (("foveate.data.scan", "_require_every_class"), 1),
    "warm-up": (("foveate.api.fit.pipeline", "plan_training"), 1),
    "step": (("foveate.training.trainer", "Trainer._accumulate_gradients"), 4),
    "validation": (("foveate.training.trainer", "Trainer._validate"), 1),
    "checkpoint": (("foveate.run.checkpoints", "checksum"), 2),
    "evaluation": (("foveate.api.fit.pipeline", "evaluate"), 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_t14_a_signal_in_every_phase(quick, warm, tmp_path, phase):
    place, at = PHASES[phase]
    status, printed = warm.run(words_of(quick, tmp_path / "run"), place, [signal.SIGTERM], at)
    assert status == 143, printed
    assert "stopped" in printed
    left = [
        path for path in tmp_path.rglob("*") if "aside" in path.name or path.name == "lock.json"
    ]
    assert left == []
    run = Run(tmp_path / "run")
    if phase in ("step", "validation", "checkpoint"):
        found = newest_checkpoint(run.folder, refused)
        assert found.state["step"] in (3, 4)  # one step after the signal at the most
        with evaluation_left_out():
            assert cli._run(["fit", "--resume", str(run.folder)]) == 0
    assert run.finished == (phase in ("step", "validation", "checkpoint", "evaluation"))


def test_t14_a_signal_in_an_export_leaves_no_file(quick, warm, tmp_path):
    recipe = with_settings(quick, {"tuning": "probe", "data.leakage_audit": False})
    fit_unevaluated(recipe, tmp_path / "run")
    words = ["export", tmp_path / "run", "--out", tmp_path / "files"]
    place = ("foveate.deploy.targets.onnx", "Onnx.open")
    status, printed = warm.run(words, place, [signal.SIGTERM])
    assert status == 143, printed
    assert list((tmp_path / "files").iterdir()) == []


def test_t15_usr1_saves_and_leaves_and_a_second_ctrl_c_does_not_wait(quick, warm, tmp_path):
    place = ("foveate.training.trainer", "Trainer._accumulate_gradients")
    words = words_of(quick, tmp_path / "one")
    status, printed = warm.run(words, place, [signal.SIGUSR1], at=2)  # what SLURM sends
    assert status == 128 + signal.SIGUSR1, printed
    assert newest_checkpoint(tmp_path / "one", refused).state["step"] == 2
    words = words_of(quick, tmp_path / "two")
    status, printed = warm.run(words, place, [signal.SIGINT, signal.SIGINT])
    assert status == 130, printed
    assert newest_checkpoint(tmp_path / "two", refused) is None  # it did not wait for the step
    assert not list(tmp_path.rglob("lock.json"))


# --- numbers and memory


def test_t17_a_step_that_is_no_number_leaves_no_trace_and_can_be_seen_again(
    hard, tmp_path, monkeypatch
):
    """A picture of the third step is no number; weights, statistics and averages must not know. What was kept gives it again."""
    real, before, after = trainer.Trainer._step, {}, {}

    def spoiled(self, batch):
        if self.state.step == 2:
            batch = batch.normalized()
            batch.images[1, 0, 3, 3] = float("nan")
            before.update(
                {
                    name: tensor.clone()
                    for name, tensor in {**self.live, **self.average.tensors}.items()
                }
            )
        real(self, batch)
        if self.state.step == 3:
            after.update(
                {
                    name: tensor.clone()
                    for name, tensor in {**self.live, **self.average.tensors}.items()
                }
            )

    monkeypatch.setattr(trainer.Trainer, "_step", spoiled)
    outcome = trained(hard, tmp_path / "run")
    assert outcome.steps == 9
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(bool(tensor.isfinite().all()) for tensor in outcome.tensors.values())
    (kept,) = (tmp_path / "run" / FOLDER).iterdir()
    info = json.loads((kept / "step.json").read_text())
    assert (info["step"], info["loss"], len(info["images"])) == (2, "nan", 8)
    assert info["images"][1].endswith(".png")
    assert math.isnan(replay(kept)[0])


def test_t17_what_was_kept_gives_the_very_loss_and_gradient(hard, tmp_path, monkeypatch):
    """A step is called bad though it is none: dropout, mixing and accumulation must come out the same, bit for bit."""
    real, true = trainer.Trainer.compute_gradients, []

    def called_bad(self, batch, before):
        loss, norm = real(self, batch, before)
        if self.state.step != 4:
            return loss, norm
        true.append((loss, norm))
        return float("inf"), norm

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "compute_gradients", called_bad)
        trained(hard, tmp_path / "run")
    (kept,) = (tmp_path / "run" / FOLDER).iterdir()
    assert [replay(kept)] == true
    shutil.copytree(kept, tmp_path / "elsewhere" / "x")
    (kept / "step.json").unlink()
    with pytest.raises(UsageError, match="no saved step"):
        replay(kept)


def test_t17_it_stops_after_some_in_a_row_and_names_the_pictures(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer,
        "mix_batch",
        lambda batch, recipe: replace(
            batch.normalized(), images=torch.full(batch.images.shape, math.inf)
        ),
    )
    with pytest.raises(Diverged, match=r"NaN or infinite in 2 steps in a row.*\.png.*bad_steps"):
        fit_recipe(with_settings(quick, {"training.max_bad_steps": 2}), tmp_path / "run")
    assert not Run(tmp_path / "run").finished
    assert len(list((tmp_path / "run" / FOLDER).iterdir())) == 1


def cramped(patch, room, begin=0):
    """From the n-th pass of training on, more than `room` images at once are too much for the memory; gives the passes of training."""
    real, seen = Model.forward, []

    def forward(self, batch):
        if self.training:
            seen.append(len(batch))
        if len(seen) >= begin and len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, batch)

    patch.setattr(Model, "forward", forward)
    return seen


def test_t19_exhausted_memory_halves_what_is_there_at_once_and_not_the_step(
    hard, tmp_path, monkeypatch, capsys
):
    """As a run that was started so: the same weights."""
    with monkeypatch.context() as patch:
        cramped(patch, 4)
        trained(with_settings(hard, {"training.micro_batch": 8}), tmp_path / "cramped")
    most = newest_checkpoint(tmp_path / "cramped", refused).state["max_images"]
    assert most in (3, 4)  # half of 7, or of 8: the epoch has 23 images
    assert f"training.micro_batch = {most} (out of memory with" in capsys.readouterr().out
    trained(with_settings(hard, {"training.micro_batch": most}), tmp_path / "stated")
    one, other = (
        newest_checkpoint(tmp_path / name, refused).tensors for name in ("cramped", "stated")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_t19_it_comes_late_and_is_remembered_by_a_resume(hard, tmp_path, monkeypatch):
    recipe = with_settings(hard, {"training.micro_batch": 8})
    with monkeypatch.context() as patch:
        seen = cramped(patch, 4, begin=5)
        interrupted(monkeypatch, 8, lambda: trained(recipe, tmp_path / "cut"))
        passes = len(seen)
        gone_on(tmp_path / "cut")
        assert max(seen[passes:]) <= 4
    state = newest_checkpoint(tmp_path / "cut", refused).state
    assert state["step"] == 9
    assert state["max_images"] in (3, 4)


def test_t19_answers_come_in_portions(quick, stripes, tmp_path, monkeypatch):
    run = fit_unevaluated(quick, tmp_path / "run").run
    pictures = sorted(stripes.rglob("*.png"))
    before = [answer.row() for answer in foveate.predict(run, pictures, device="cpu")]
    cramped(monkeypatch, 3)
    after = [answer.row() for answer in foveate.predict(run, pictures, device="cpu")]
    assert [row["path"] for row in after] == [row["path"] for row in before]
    assert [row["confidence"] for row in after] == pytest.approx(
        [row["confidence"] for row in before], abs=1e-6
    )


def test_t19_one_image_that_is_too_much_is_a_sentence(
    quick, stripes, tmp_path, monkeypatch, capsys
):
    run = fit_unevaluated(quick, tmp_path / "run").run
    cramped(monkeypatch, 0)
    assert cli._run(["predict", str(run), str(stripes), "--device", "cpu"]) == 1
    assert "out of memory, even with one image" in capsys.readouterr().err
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


class Mortal(ImageDataset):
    """Kills the process that reads its seventh picture, unless it is the main one."""

    def __getitem__(self, place):
        if place[1] == 7 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(place)


def test_t20_a_loader_process_that_dies_is_replaced(quick, tmp_path, capsys):
    job = _fitting.prepare_job(quick, read_data(quick), tmp_path / "run")
    own = job.dataset("train")
    pictures = Mortal(own.samples, own.cache, own.transform, own.encode, own.seed)
    order = [BatchSampler(len(own), 3, seed=1) for _ in range(2)]
    found, known = list(make_loader(pictures, order[0], 2)), list(make_loader(own, order[1], 0))
    assert [batch.indices.tolist() for batch in found] == [
        batch.indices.tolist() for batch in known
    ]
    assert all(
        torch.equal(one.images, other.images) for one, other in zip(found, known, strict=True)
    )
    assert "shared memory" in capsys.readouterr().out


def test_t20_what_a_transform_says_is_not_taken_for_that(quick, tmp_path):
    job = _fitting.prepare_job(quick, read_data(quick), tmp_path / "run")
    own = job.dataset("train")
    broken = ImageDataset(
        own.samples,
        own.cache,
        lambda *_: (_ for _ in ()).throw(RuntimeError("mine")),
        own.encode,
        0,
    )
    with pytest.raises(RuntimeError, match="mine"):
        list(make_loader(broken, BatchSampler(len(own), 3), 2))


def test_t16_a_checkpoint_of_another_version_is_refused_in_words(hard, tmp_path, monkeypatch):
    interrupted(monkeypatch, 2, lambda: trained(hard, tmp_path / "cut"))
    run = Run(tmp_path / "cut")
    checkpoint = newest_checkpoint(run.folder, refused)
    save_checkpoint(
        run.folder,
        "step-999999999-0",
        Checkpoint(checkpoint.tensors, {**checkpoint.state, "momentum": 3}),
    )
    with pytest.raises(RunError, match="begun by another version"):
        gone_on(tmp_path / "cut")
