"""The contract of backbones, for every supported kind of network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from foveate.errors import HubUnreachable, UnknownName, UsageError, WeightsError
from foveate.modeling.backbones import FAMILIES, _hub
from foveate.types import Provides
from helpers import raise_no_route

# name, input size in pixels: the smallest that the family allows, or its own
NETWORKS = [
    ("resnet18", 32),
    ("inception_v3", 75),
    ("inception_v4", 75),
    ("vgg11", 32),
    ("densenet121", 32),
    ("tf_efficientnet_lite0", 32),
    ("efficientnet_b0", 32),
    ("convnext_atto", 32),
    ("vit_tiny_patch16_224", 32),
    ("deit_tiny_patch16_224", 32),
    ("swin_tiny_patch4_window7_224", 224),
    ("vit_small_patch14_dinov2", 28),
    ("vit_small_patch16_dinov3", 32),
]


@pytest.fixture(scope="module")
def family():
    return FAMILIES.get("timm")()


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda pair: pair[0])
def backbone(request, family):
    """Created once for all tests of the contract."""
    name, side = request.param
    network = family.open(name, "none", side)
    assert network.input.size == side
    return network


def test_contract(backbone):
    backbone.eval()
    side = backbone.input.size
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        pooled = backbone(images, {Provides.POOLED}).pooled
        maps = backbone(images, {Provides.MAPS}).maps
        tokens = backbone(images, {Provides.TOKENS}).tokens
        both = backbone(images, {Provides.POOLED, Provides.MAPS})
    assert pooled.shape == (2, backbone.width)
    torch.testing.assert_close(both.pooled, pooled)
    torch.testing.assert_close(both.maps, maps)
    assert tuple(map_.shape[1] for map_ in maps) == backbone.map_widths
    assert all(near.shape[-1] >= far.shape[-1] for near, far in pairwise(maps))
    assert tokens.shape == (2, maps[-1].shape[-1] * maps[-1].shape[-2], backbone.token_width)
    assert "random" in backbone.origin


def test_blocks_hold_every_parameter_in_order(backbone):
    in_blocks = [id(parameter) for block in backbone.blocks() for parameter in block.parameters()]
    root = [id(parameter) for parameter in backbone.network.parameters(recurse=False)]
    assert len(backbone.blocks()) >= 4
    assert len(in_blocks) == len(set(in_blocks))
    assert {*in_blocks, *root} == {id(parameter) for parameter in backbone.parameters()}


@pytest.mark.parametrize(("name", "size"), [("efficientformer_l1", 64), ("crossvit_9_240", 256)])
def test_a_size_that_the_network_does_not_take_is_refused_at_once(family, name, size):
    with pytest.raises(
        UsageError, match=f"does not support an input size of {size} px.*--size 2[24]"
    ):
        family.open(name, "none", size)


def test_gradients_reach_the_first_block(family):
    backbone = family.open("test_efficientnet", "none", 32)
    backbone(torch.randn(2, 3, 32, 32), {Provides.POOLED}).pooled.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.blocks()[0].parameters())


def test_a_weights_file_loads_exactly_its_tensors(family, tmp_path):
    source = family.open("test_efficientnet", "none", 32)
    file = tmp_path / "weights.safetensors"
    old_head = {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}
    save_file({**source.network.state_dict(), **old_head}, file)
    torch.save(
        {
            "state_dict": {
                f"module.{name}": value for name, value in source.network.state_dict().items()
            }
        },
        tmp_path / "weights.pt",
    )
    for path in (file, tmp_path / "weights.pt"):
        loaded = family.open("test_efficientnet", str(path), 32).network.state_dict()
        assert all(
            torch.equal(loaded[name], value) for name, value in source.network.state_dict().items()
        )


def test_weights_that_do_not_fit_are_refused(family, tmp_path):
    save_file(
        family.open("test_resnet", "none", 32).network.state_dict(), tmp_path / "other.safetensors"
    )
    with pytest.raises(WeightsError, match="do not fit"):
        family.open("test_efficientnet", str(tmp_path / "other.safetensors"), 32)


class MaliciousPickle:
    """An object whose pickle creates a file when it is loaded."""

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_t33_a_file_with_code_is_refused_and_not_run(family, tmp_path):
    MaliciousPickle.target = str(tmp_path / "owned")
    torch.save({"a": MaliciousPickle()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="more than tensors"):
        family.open("test_efficientnet", str(tmp_path / "evil.pt"), 32)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x08\0\0\0\0\0\0\0{notjson", b'\x0d\0\0\0\0\0\0\0{"a":1,"a":2}']
)
def test_t34_damaged_safetensors_are_refused(family, tmp_path, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        family.open("test_efficientnet", str(tmp_path / "bad.safetensors"), 32)


def test_a_missing_file_and_a_wrong_ending(family, tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UsageError, match=r"weights\.safetensors"):
        family.open("test_efficientnet", str(tmp_path / "weight.safetensors"), 32)
    (tmp_path / "weights.txt").touch()
    with pytest.raises(UsageError, match="one of"):
        family.open("test_efficientnet", str(tmp_path / "weights.txt"), 32)


def test_unknown_names_suggest_similar_ones(family):
    with pytest.raises(UnknownName, match="resnet18"):
        family.open("resnett18", "none")


def test_a_failed_download_suggests_what_to_try(family, monkeypatch):
    monkeypatch.setattr("timm.create_model", raise_no_route)
    with pytest.raises(WeightsError, match="--weights FILE"):
        family.open("test_efficientnet", "hub")


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(family, monkeypatch):
    """Its client would try for most of a minute; without a network only its cache is used."""
    offline = []

    def fail_offline(*_: object, **__: object) -> None:
        offline.append(constants.HF_HUB_OFFLINE)
        raise OSError("no file") from LocalEntryNotFoundError("offline mode is enabled")

    monkeypatch.setattr(_hub, "_hub_problem", lambda: "https://hub does not answer")
    monkeypatch.setattr("timm.create_model", fail_offline)
    with pytest.raises(HubUnreachable, match="https://hub does not answer"):
        family.open("test_efficientnet", "hub")
    assert offline == [True]
    assert not constants.HF_HUB_OFFLINE


def test_an_unreachable_hub_is_remembered_for_a_while(monkeypatch):
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(timeout)
            raise OSError("no route to host")

    monkeypatch.setattr(_hub, "get_session", Session)
    monkeypatch.setattr(_hub, "_unreachable_until", 0.0)
    assert "does not answer" in _hub._hub_problem()
    assert "does not answer" in _hub._hub_problem()
    assert asked == [5.0]


def test_the_offline_package_knows_its_images(family):
    backbone = family.open("tf_efficientnet_lite0", "auto")
    assert backbone.origin.startswith("package: efficientnet-lite0")
    assert backbone.input.mean == (0.5, 0.5, 0.5)
    with pytest.raises(UsageError, match="no offline package"):
        family.open("resnet18", "offline")


def test_backbone_facts_need_no_weights(family):
    card = family.info("vit_tiny_patch16_224")
    assert card.parameters == sum(
        parameter.numel() for parameter in family.open(card.name, "none").parameters()
    )
    assert card.license == "apache-2.0"
    assert card.size == 224
