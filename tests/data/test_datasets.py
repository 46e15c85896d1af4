import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Resize, ToDtype, ToImage

from utkcmp.data.archives import DataError, data_source
from utkcmp.data.datasets import UTKAgeDataset, UTKDataset
from utkcmp.data.pairs import sample_pairs
from utkcmp.training.batches import ComparedFaces, FaceBatches, PairBatches

SMALL = Compose([ToImage(), Resize((16, 16)), ToDtype(torch.float32, scale=True)])


@pytest.fixture(scope="module")
def folder(small_run):
    return data_source(small_run[1].params)


def test_the_pair_dataset_gives_two_images_and_whether_left_is_older(folder):
    dataset = UTKDataset(folder, SMALL, seed=1, year_diff=5, data_size=20)
    assert len(dataset) == 20
    ages = dataset.faces.ages
    for item in range(4):
        left, right, label = dataset[item]
        assert left.shape == right.shape == (3, 16, 16)
        gap = ages[dataset.pairs.left[item]] - ages[dataset.pairs.right[item]]
        assert abs(gap) >= 5 and label == (gap > 0)


@pytest.mark.parametrize("kind", [UTKAgeDataset, UTKDataset])
def test_a_dataset_is_a_sequence(folder, kind):
    few = kind(folder, SMALL, **({"data_size": 9} if kind is UTKDataset else {}))
    items = list(few)
    assert len(items) == len(few) and torch.equal(few[-1][0], items[-1][0])
    assert [item[-1] for item in few[1:8:3]] == [items[row][-1] for row in (1, 4, 7)]
    assert few[np.int64(2)][-1] == items[2][-1] and few[-len(few)][-1] == items[0][-1]
    assert len([*reversed(few)]) == len(few)
    for outside in (len(few), -len(few) - 1):
        with pytest.raises(IndexError, match=f"no item {outside}: there are {len(few)}"):
            few[outside]
    with pytest.raises(TypeError):
        few["0"]


def test_a_loader_makes_batches_with_a_transform_and_says_what_it_lacks_without(folder):
    left, right, label = next(iter(DataLoader(UTKDataset(folder, SMALL, data_size=6), 3)))
    assert left.shape == right.shape == (3, 3, 16, 16) and label.shape == (3,)
    images, ages = next(iter(DataLoader(UTKAgeDataset(folder, SMALL), 4)))
    assert images.shape == (4, 3, 16, 16) and ages.dtype == torch.int64
    for dataset in (UTKDataset(folder, data_size=6), UTKAgeDataset(folder)):
        with pytest.raises(TypeError, match="PIL gives them make no batch: expected .* transform"):
            next(iter(DataLoader(dataset, 3)))
        assert len(next(iter(DataLoader(dataset, 3, collate_fn=list)))) == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_of_a_run_can_be_used_alone(small_run, folder, split):
    run, data = small_run
    dataset = UTKAgeDataset(folder, split=split, faces=run.faces_csv)
    assert dataset.faces.file.tolist() == data.faces.file[data.rows(split)].tolist()
    image, age = dataset[0]
    assert age == int(dataset.faces.file[0].split("_")[0]) and image.size == (200, 200)
    pairs = UTKDataset(folder, split=split, faces=run.read_faces(), data_size=9)
    assert pairs.faces.ages.tolist() == dataset.ages.tolist() and len(pairs) == 9


def test_a_split_that_cannot_be_had_is_explained(small_run, folder, tmp_path):
    run, data = small_run
    with pytest.raises(ValueError, match="split is 'train', but faces is None: expected a run's"):
        UTKAgeDataset(folder, split="train")
    with pytest.raises(ValueError, match="split is 'all', expected one of train, val, test"):
        UTKDataset(folder, split="all", faces=run.faces_csv)
    shutil.copy(sorted(folder.glob("*.jpg"))[0], tmp_path)
    with pytest.raises(DataError, match=f"lacks {len(data.faces) - 1} of the faces, first "):
        UTKAgeDataset(tmp_path, faces=run.faces_csv)


def test_the_age_dataset_gives_ages_in_years(folder):
    dataset = UTKAgeDataset(folder)
    image, age = dataset[0]
    assert image.size == (200, 200) and image.mode == "RGB"
    assert age == int(dataset.faces.file[0].split("_")[0])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        UTKDataset(tmp_path / "nowhere")


def test_the_splits_of_a_run_share_no_face_and_no_picture(small_run):
    _, data = small_run
    groups = {split: set(data.faces.group[data.rows(split)]) for split in ("train", "val", "test")}
    assert groups["train"].isdisjoint(groups["val"] | groups["test"])
    assert groups["val"].isdisjoint(groups["test"])


def test_pairs_of_a_split_take_its_faces_only(small_run):
    _, data = small_run
    for split in ("train", "val", "test"):
        pairs = data.pairs(split)
        used = np.union1d(pairs.left, pairs.right)
        assert set(used) <= set(data.rows(split))
        older = data.ages[pairs.left] > data.ages[pairs.right]
        assert (older.numpy() == pairs.label).all()


def test_batches_depend_on_seed_and_epoch_alone():
    pairs = sample_pairs(np.arange(40), data_size=50)

    def first(seed, epoch):
        return next(iter(PairBatches(pairs, 8, seed, epoch)))[0].tolist()

    assert first(1, 0) == first(1, 0)
    assert first(1, 0) != first(1, 1) and first(1, 0) != first(2, 0)


def test_an_epoch_shows_every_pair_at_most_once():
    pairs = sample_pairs(np.arange(40), data_size=50)
    batches = list(PairBatches(pairs, 8, seed=0, epoch=0))
    assert len(batches) == 6
    shown = [
        (int(a), int(b)) for left, right, _ in batches for a, b in zip(left, right, strict=True)
    ]
    assert len(set(shown)) == len(shown) == 48


def test_face_batches_cover_the_rows():
    batches = list(FaceBatches(np.arange(5, 25), 10, seed=0, epoch=3))
    assert sorted(torch.cat(batches).tolist()) == list(range(5, 25))


def test_compared_faces_meet_in_every_valid_pair():
    ages = torch.tensor([30.0, 20.0, 21.0, 35.0, 30.0, 90.0])
    rows, year_diff = np.array([0, 1, 2, 3, 4]), 5
    ((shown, left, right, label),) = ComparedFaces(rows, ages, year_diff, 5, seed=0, epoch=1)
    expect = {
        (a, b, float(ages[a] > ages[b]))
        for a in rows
        for b in rows
        if abs(ages[a] - ages[b]) >= year_diff
    }
    got = zip(shown[left].tolist(), shown[right].tolist(), label.tolist(), strict=True)
    assert set(got) == expect and len(label) == len(expect)
    assert torch.equal(shown, next(iter(FaceBatches(rows, 5, seed=0, epoch=1))))


def test_images_at_another_size_are_those_of_a_model_that_takes_it(small_run):
    _, data = small_run
    model = torch.nn.Module()
    assert data.images_for(model) is data.images and data.at(data.images.shape[-1]) is data
    model.image_size = 24
    larger = data.at(24)
    assert torch.equal(data.images_for(model), larger.images)
    assert larger.images.shape == (len(data.ages), 3, 24, 24)
    assert larger.faces is data.faces and np.array_equal(larger.rows("val"), data.rows("val"))
    small = torch.nn.functional.interpolate(
        larger.images.float(), data.images.shape[-2:], mode="bilinear", antialias=True
    )
    assert (small - data.images.float()).abs().mean() < 8
