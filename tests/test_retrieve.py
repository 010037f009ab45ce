"""Pictures and sentences that find each other: ranks by hand, both ways, and what is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.cli import main as cli
from foveate.errors import DataError, UsageError
from foveate.evaluation.retrieval import ranks, recall_at_cutoffs, relevance_matrix
from foveate.modeling.backbones import family_of
from test_clip import KINDS, saved

pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return f"clip:{saved(tmp_path_factory.mktemp('clip') / 'vit', KINDS['vit'])}"


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("told"), np.random.default_rng(0)
    lines = []
    for place in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            root / f"{place}.png"
        )
        lines.append(
            {
                "path": f"{place}.png",
                "text": ["a thing", f"number {place}"] if place < 2 else f"number {place}",
            }
        )
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root / "data.jsonl"


def test_ranks_by_hand():
    alike = torch.tensor([[0.9, 0.5, 0.1], [0.4, 0.4, 0.2], [0.3, 0.2, 0.1]])
    own = torch.eye(3, dtype=torch.bool)
    assert ranks(alike, own).tolist() == [0, 1, 2]  # a tie is lost
    own[2, 1] = True
    assert ranks(alike, own).tolist() == [0, 1, 1]  # the nearest of two right ones counts
    assert [score.value for score in recall_at_cutoffs(np.array([0, 1, 5, 12]))] == [
        0.25,
        0.5,
        0.75,
    ]
    assert ranks(torch.zeros(3, 3), torch.eye(3, dtype=torch.bool)).tolist() == [2, 2, 2]


def test_a_shared_sentence_belongs_to_all():
    assert relevance_matrix([["a", "b"], ["a"]], ["a", "b"]).tolist() == [
        [True, True],
        [True, False],
    ]


def test_both_ways_are_what_the_embeddings_say(clip, told):
    """Against a loop over the model's own embeddings."""
    found = foveate.retrieve(told, backbone=clip, device="cpu").numbers()
    model = family_of(clip).open(clip, "auto").eval()
    sentences = ["a thing", *(f"number {place}" for place in range(12))]
    pixels = [
        np.asarray(Image.open(told.parent / f"{place}.png")) / 255
        for place in sorted(range(12), key=str)
    ]
    with torch.inference_mode():
        images = torch.stack(
            [
                torch.tensor((each - np.array(model.input.mean)) / np.array(model.input.std))
                .permute(2, 0, 1)
                .float()
                for each in pixels
            ]
        )
        from foveate.types import Provides

        pictures, said = model(images, {Provides.POOLED}).pooled, model.embed_text(sentences)
    cosines = torch.nn.functional.cosine_similarity(pictures[:, None], said[None], dim=2).numpy()
    order = sorted(range(12), key=str)
    own = [{f"number {place}", "a thing"} if place < 2 else {f"number {place}"} for place in order]
    for name, hits in (
        (
            "pictures_to_sentences",
            [
                [sentences[place] in own[row] for place in (-cosines[row]).argsort()]
                for row in range(12)
            ],
        ),
        (
            "sentences_to_pictures",
            [
                [sentences[column] in own[place] for place in (-cosines[:, column]).argsort()]
                for column in range(13)
            ],
        ),
    ):
        for cut in (1, 5, 10):
            assert found[name][f"recall_{cut}"]["value"] == pytest.approx(
                np.mean([any(row[:cut]) for row in hits])
            )
    assert (found["pictures_to_sentences"]["among"], found["sentences_to_pictures"]["among"]) == (
        13,
        12,
    )


def test_what_is_typed_finds_pictures(clip, told, capsys):
    assert (
        cli._run(
            [
                "retrieve",
                str(told.parent),
                "a red square",
                "cats",
                "--top",
                "3",
                "--backbone",
                clip,
                "--device",
                "cpu",
                "--json",
            ]
        )
        == 0
    )
    near = json.loads(capsys.readouterr().out.splitlines()[-1])["nearest"]
    assert list(near) == ["a red square", "cats"]
    assert [len(each) for each in near.values()] == [3, 3]
    assert near["cats"][0][1] >= near["cats"][1][1] >= near["cats"][2][1]


def test_a_broken_picture_is_left_out(clip, told, tmp_path):
    for file in told.parent.iterdir():
        (tmp_path / file.name).write_bytes(
            file.read_bytes() if file.name != "3.png" else b"nothing"
        )
    found = foveate.retrieve(tmp_path / "data.jsonl", backbone=clip, device="cpu").numbers()
    assert found["sentences_to_pictures"]["among"] == 11


def test_what_cannot_be_asked(told, stripes, clip):
    with pytest.raises(UsageError, match="embeds pictures alone"):
        foveate.retrieve(told, backbone="test_efficientnet", weights="none")
    with pytest.raises(DataError, match="have no sentences"):
        foveate.retrieve(stripes, backbone=clip)
