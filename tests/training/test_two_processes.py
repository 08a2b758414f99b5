"""Two processes with gloo, each with its share of a batch, against one process with all of it: loss and gradients.

By torch's own DistributedDataParallel, which is what Lightning's strategy wraps a module in.
"""

import csv
import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from encoder.config import FusionConfig
from encoder.models.model import GeoEncoder
from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import load_hierarchy
from indexer.earth.geo import accuracy
from tests.kills import Forks
from tests.training.conftest import EVERY_STEP, SIZE, changed, check_alike, head_of, train, written
from training.config import Augmentation, DataConfig, FitConfig, ModelConfig, Negatives
from training.photos.batches import Share
from training.photos.run_photos import PhotoSet
from training.runs.inputs import build_encoder
from training.runs.module import Epoch, GeoModule

WIDTH, BATCH, N = 16, 16, 40
KINDS = (*get_args(Negatives), "classes", "places")
PARTS = (1, 2)
# Two blocks: of a single one the patches of the map have no part in the class token, which is all that is used.
# Some maps are left out: by lot, which must fall the same for a photo whoever works on it.
FUSION = FusionConfig(classes=7, width=8, latent=4, heads=2, blocks=2, mlp_size=8, leave_out=0.4)
MODEL = ModelConfig(
    image_size=SIZE, patch_size=8, hidden_size=32, layers=2, heads=2, mlp_size=64, width=WIDTH, fusion=FUSION
)
CONFIG = FitConfig(
    data=DataConfig("photos.parquet", batch_size=BATCH, augmentation=Augmentation(shift=0.1, brightness=0.2)),
    model=replace(MODEL, trainable_blocks=1),  # as in the paper: the frozen ones have no part in what is averaged
)

_Outcome = tuple[float, dict[str, torch.Tensor]]  # the loss of the batch, and each weight's gradient


class _Step(nn.Module):
    """A training step as a forward pass, which is what DistributedDataParallel watches."""

    def __init__(self, module: GeoModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, part: object, number: int) -> torch.Tensor:
        return self.module.training_step(part, number)  # type: ignore[arg-type]


def step_of(kind: str, hierarchy: Hierarchy, share: Share) -> _Outcome:
    """Loss and gradients of one batch, of all processes together."""
    torch.manual_seed(0)
    photos = some_photos(hierarchy)
    encoder = build_encoder(CONFIG.model)
    awaken(encoder)
    module = GeoModule(encoder, head_of(kind, hierarchy, photos, width=WIDTH), config=CONFIG, share=share)
    module.epochs, module.batches_done = [Epoch(0, 2.5, 10.0, [0.07], 2.0, accuracy(np.ones(1)))] * 3, 1
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no trainer to log to
    step: nn.Module = _Step(module)
    if share.processes > 1:
        step = DistributedDataParallel(step)
    parts = list(photos.parts(BATCH, share, epoch=3, seed=0, skip=1))[: share.parts]
    for number, part in enumerate(parts):
        waits = share.processes > 1 and number + 1 < share.parts
        with step.no_sync() if waits else nullcontext():  # type: ignore[operator]
            (step(part, number) / share.parts).backward()
    loss = torch.tensor(module._loss_sum)
    if share.processes > 1:
        torch.distributed.all_reduce(loss)
    learnt = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return float(loss), {name: weight.grad for name, weight in learnt.items() if weight.grad is not None}


def some_photos(hierarchy: Hierarchy) -> PhotoSet:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    rows = rng.integers(0, len(hierarchy.leaves), N)
    lat, lng = hierarchy.leaves.lat_deg[rows].copy(), hierarchy.leaves.lng_deg[rows].copy()
    lat[::7] = -80  # outside all cells
    pixels = torch.randint(0, 256, (N, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    maps = torch.randint(0, 7, (N, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    return PhotoSet(pixels, maps, torch.from_numpy(hierarchy.locate(lat, lng)), lat, lng)


def awaken(encoder: GeoEncoder) -> None:
    """Weights of a new fusion that are zero to begin with would hide the gradients of those before them."""
    with torch.no_grad():
        for weight in encoder.parameters():
            if not weight.any():
                weight.normal_(std=0.1)


def on_both(work: str, *arguments: object) -> None:
    """Call a function of this module in two processes, with the rank of each: in a fork, and in a fork of that one."""
    other = os.fork()
    if other == 0:
        try:
            globals()[work](1, *arguments)
        except BaseException:  # noqa: BLE001 (whatever it is, the fork must end here)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    globals()[work](0, *arguments)
    assert os.waitpid(other, 0)[1] == 0


def work(rank: int, hierarchy: str, folder: str) -> None:
    """What each of the two does."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    opened = load_hierarchy(Path(hierarchy))
    found = {(kind, parts): step_of(kind, opened, Share(rank, 2, parts)) for kind in KINDS for parts in PARTS}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def command(folder: str, *arguments: str) -> None:
    """`python -m training`, but for the seconds that imports take; what it prints goes to two files."""
    for stream, name in ((1, "printed"), (2, "errors")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    sys.argv = ["training", *arguments]
    try:
        runpy.run_module("training", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            os._exit(int(end.code))


def half_of_a_command(rank: int, port: int, folder: str, *arguments: str) -> None:
    """The command in one of two processes, as clusters start it."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # which is looked up while it is imported
    command(folder, *arguments)


@pytest.fixture(scope="module")
def shared(
    started: Forks, toy: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[tuple[str, int], _Outcome]]:
    folder = tmp_path_factory.mktemp("two")
    assert started.run("on_both", "work", toy / "H", folder) == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", PARTS)
def test_loss_and_gradients_are_those_of_one_process_with_the_joined_batch(
    toy: Path, shared: list[dict[tuple[str, int], _Outcome]], kind: str, parts: int
) -> None:
    loss, gradients = step_of(kind, load_hierarchy(toy / "H"), Share())
    assert len(gradients) > 20
    assert any("fusion" in name for name in gradients)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for of_rank in shared:
        theirs, shares = of_rank[kind, parts]
        assert theirs == pytest.approx(loss, rel=1e-5)
        assert set(shares) == set(gradients)
        for name, gradient in gradients.items():
            torch.testing.assert_close(shares[name], gradient, atol=1e-5 * largest, rtol=1e-5, msg=name)
            if not name.endswith("k_proj.bias"):  # adds the same to every logit of a softmax: nothing pulls at it
                assert gradient.any(), name


def test_a_run_of_two_processes_is_stopped_and_goes_on_to_what_one_process_comes_to(
    started: Forks, toy: Path, tmp_path: Path
) -> None:
    """With two parts each, as a command: Lightning starts the second process by repeating the first one's command line.
    It goes on in two processes that somebody else has started, as a cluster does.

    Negatives are those of the batch, as the paper has them: neither training nor validation may look at a share alone.
    The signal reaches one process, as `kill` sends it, within an epoch; both end after the same step, with 143.
    """
    slow = {"lr": 3e-4, "geocell_lr": 3e-3}  # so that rounding does not grow
    config = changed(EVERY_STEP, data={"batch_size": 8, "photos": str(toy / "photos.parquet")}, optimizer=slow)
    config = changed(config, loss={"negatives": "batch"}, trainer={"max_epochs": 8, "checkpoint_every_n_steps": 10_000})
    shared = changed(config, trainer={"devices": 2, "accumulate_grad_batches": 2})
    options = ("fit", "--config", written(toy, shared, tmp_path / "config.yaml"), "--out", tmp_path / "two", "--json")
    process = started.start("command", tmp_path, *options)
    errors, deadline = tmp_path / "errors", time.monotonic() + 240
    while not (errors.exists() and "epoch 2 of" in errors.read_text()):
        assert time.monotonic() < deadline, errors.read_text()
        time.sleep(0.01)
    os.kill(process, signal.SIGTERM)
    assert started.end() == 143, errors.read_text()
    assert "stopped as asked" in errors.read_text()
    assert (tmp_path / "two" / "resume.ckpt").is_file()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    errors.unlink()
    assert started.run("on_both", "half_of_a_command", port, tmp_path, *options) == 0
    assert "going on with the run" in errors.read_text()
    assert json.loads((tmp_path / "printed").read_text())["epochs"] == 8  # one result, however many processes
    train(toy, tmp_path / "one", config)
    check_alike(tmp_path / "two", tmp_path / "one")
    logs = [(tmp_path / name / "checkpoint" / "training_log.csv").read_text() for name in ("one", "two")]
    for a, b in zip(*(csv.DictReader(text.splitlines()) for text in logs), strict=True):
        for column in set(a) - {"seconds"}:
            assert float(a[column]) == pytest.approx(float(b[column]), rel=1e-3), column
