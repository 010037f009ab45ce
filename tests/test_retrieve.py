"""Image-text retrieval: ranks by hand, both directions, and text queries."""

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
from foveate.evaluation.intervals import Units
from foveate.evaluation.retrieval import ranks, recall_at_cutoffs, relevance_matrix
from foveate.modeling.backbones import family_of
from test_clip import CONFIGS, save_model

pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return f"clip:{save_model(tmp_path_factory.mktemp('clip') / 'vit', CONFIGS['vit'])}"


@pytest.fixture(scope="module")
def captioned_images(tmp_path_factory) -> Path:
    root, rng = tmp_path_factory.mktemp("captioned"), np.random.default_rng(0)
    rows = []
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            root / f"{index}.png"
        )
        rows.append(
            {
                "path": f"{index}.png",
                "text": ["a thing", f"number {index}"] if index < 2 else f"number {index}",
            }
        )
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root / "data.jsonl"


def test_ranks_by_hand():
    similarities = torch.tensor([[0.9, 0.5, 0.1], [0.4, 0.4, 0.2], [0.3, 0.2, 0.1]])
    relevant = torch.eye(3, dtype=torch.bool)
    assert ranks(similarities, relevant).tolist() == [0, 1, 2]  # ties count as worse
    relevant[2, 1] = True
    assert ranks(similarities, relevant).tolist() == [
        0,
        1,
        1,
    ]  # the nearest of two relevant ones counts
    assert [
        score.value for score in recall_at_cutoffs(np.array([0, 1, 5, 12]), Units.single(4))
    ] == [
        0.25,
        0.5,
        0.75,
    ]
    assert ranks(torch.zeros(3, 3), torch.eye(3, dtype=torch.bool)).tolist() == [2, 2, 2]


def test_captions_of_an_image_count_as_one_unit():
    """Five captions of an image are found together or not at all: 20 draws, not 100."""
    found = np.repeat(np.random.default_rng(0).random(20) < 0.7, 5)
    ranks_of_captions = np.where(found, 0, 20)
    alone = recall_at_cutoffs(ranks_of_captions, Units.single(100))[0]
    together = recall_at_cutoffs(ranks_of_captions, Units.of(np.repeat(range(20), 5).tolist()))[0]
    assert (alone.value, alone.groups, together.groups) == (together.value, 0, 20)
    assert together.high - together.low > 1.8 * (alone.high - alone.low)


def test_a_shared_caption_matches_all_its_images():
    assert relevance_matrix([["a", "b"], ["a"]], ["a", "b"]).tolist() == [
        [True, True],
        [True, False],
    ]


def test_retrieval_in_both_directions_follows_the_embeddings(clip, captioned_images):
    """Compare with a loop over the embeddings of the model."""
    result = foveate.retrieve(captioned_images, backbone=clip, device="cpu").numbers()
    model = family_of(clip).open(clip, "auto").eval()
    captions = ["a thing", *(f"number {index}" for index in range(12))]
    pixels = [
        np.asarray(Image.open(captioned_images.parent / f"{index}.png")) / 255
        for index in sorted(range(12), key=str)
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

        image_embeddings, text_embeddings = (
            model(images, {Provides.POOLED}).pooled,
            model.embed_text(captions),
        )
    cosines = torch.nn.functional.cosine_similarity(
        image_embeddings[:, None], text_embeddings[None], dim=2
    ).numpy()
    order = sorted(range(12), key=str)
    relevant = [
        {f"number {index}", "a thing"} if index < 2 else {f"number {index}"} for index in order
    ]
    for name, hits in (
        (
            "image_to_text",
            [
                [captions[index] in relevant[row] for index in (-cosines[row]).argsort()]
                for row in range(12)
            ],
        ),
        (
            "text_to_image",
            [
                [captions[column] in relevant[index] for index in (-cosines[:, column]).argsort()]
                for column in range(13)
            ],
        ),
    ):
        for cut in (1, 5, 10):
            assert result[name][f"recall_{cut}"]["value"] == pytest.approx(
                np.mean([any(row[:cut]) for row in hits])
            )
    assert (result["image_to_text"]["candidates"], result["text_to_image"]["candidates"]) == (
        13,
        12,
    )
    # "a thing" belongs to two images, so that 13 captions are those of 12
    groups = [result[name]["recall_1"]["groups"] for name in ("image_to_text", "text_to_image")]
    assert groups == [0, 12]


def test_a_text_query_finds_images(clip, captioned_images, capsys):
    assert (
        cli._run(
            [
                "retrieve",
                str(captioned_images.parent),
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
    nearest = json.loads(capsys.readouterr().out.splitlines()[-1])["nearest"]
    assert list(nearest) == ["a red square", "cats"]
    assert [len(images) for images in nearest.values()] == [3, 3]
    assert nearest["cats"][0][1] >= nearest["cats"][1][1] >= nearest["cats"][2][1]


def test_a_broken_image_is_skipped(clip, captioned_images, tmp_path):
    for file in captioned_images.parent.iterdir():
        (tmp_path / file.name).write_bytes(
            file.read_bytes() if file.name != "3.png" else b"nothing"
        )
    result = foveate.retrieve(tmp_path / "data.jsonl", backbone=clip, device="cpu").numbers()
    assert result["text_to_image"]["candidates"] == 11


def test_invalid_retrieval_requests(captioned_images, stripes, clip):
    with pytest.raises(UsageError, match="embeds images only"):
        foveate.retrieve(captioned_images, backbone="test_efficientnet", weights="none")
    with pytest.raises(DataError, match="have no captions"):
        foveate.retrieve(stripes, backbone=clip)
