import errno
import io
import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    affine,
)

from utkcmp.data import image_cache as module
from utkcmp.data.archives import DataError
from utkcmp.data.decode import decode, resize
from utkcmp.data.image_cache import cache_images
from utkcmp.data.index import index_faces
from utkcmp.models.inference import MEAN, STD, to_float
from utkcmp.training import augmentation
from utkcmp.training.augmentation import Augmentation

SIZE = 24


def stored(seed: int, width=40, height=40) -> bytes:
    file = io.BytesIO()
    blots = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(blots).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i + 20}_0_1_20170116174525{i:03}.jpg").write_bytes(stored(i))
    (folder / "21_0_0_20170116174525999.jpg").write_bytes(b"")  # rejected: no row of its own
    return folder


@pytest.fixture
def faces(folder):
    return index_faces(folder, progress=False)


def build(folder, faces, cache, size=SIZE):
    return cache_images(folder, faces, size, cache)


def test_row_i_is_the_ith_valid_face(folder, faces, tmp_path):
    got = build(folder, faces, tmp_path / "cache")
    valid = faces[faces.status == "ok"]
    assert got.shape == (len(valid), 3, SIZE, SIZE) == (12, 3, 24, 24) and got.dtype == np.uint8
    for row, file in enumerate(valid.file):
        assert np.array_equal(got[row], resize(decode((folder / file).read_bytes()), SIZE))


def test_a_large_picture_is_cached_as_if_it_had_been_decoded_whole(tmp_path):
    image = Image.open(io.BytesIO(stored(0))).resize((400, 400), Image.Resampling.BICUBIC)
    image.save(tmp_path / "25_0_1_20170116174525125.jpg", quality=95)
    got = build(tmp_path, index_faces(tmp_path, progress=False), None)[0]
    assert np.abs(got - resize(image, SIZE).astype(float)).mean() < 2


def test_without_a_cache_the_array_is_in_memory(folder, faces, tmp_path):
    got = build(folder, faces, None)
    assert not isinstance(got, np.memmap)
    assert np.array_equal(got, build(folder, faces, tmp_path / "cache"))


def test_a_second_start_reads_nothing_but_the_cache(folder, faces, tmp_path):
    expect = build(folder, faces, tmp_path / "cache")
    for file in folder.iterdir():
        file.unlink()
    got = build(folder, faces, tmp_path / "cache")
    assert isinstance(got, np.memmap) and np.array_equal(got, expect)


def test_writing_to_the_array_never_reaches_the_file(folder, faces, tmp_path):
    got = build(folder, faces, tmp_path / "cache")
    before = got.copy()
    got[:] = 0
    assert np.array_equal(build(folder, faces, tmp_path / "cache"), before)


def test_every_size_and_content_has_a_file_of_its_own(folder, faces, tmp_path):
    build(folder, faces, tmp_path / "cache")
    assert build(folder, faces, tmp_path / "cache", size=16).shape == (12, 3, 16, 16)
    file = folder / faces.file[0]
    file.write_bytes(stored(99))
    got = build(folder, index_faces(folder, progress=False), tmp_path / "cache")
    assert np.array_equal(got[0], resize(decode(file.read_bytes()), SIZE))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_damaged_cache_is_built_anew(folder, faces, tmp_path):
    expect = build(folder, faces, tmp_path / "cache").copy()
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    other = io.BytesIO()
    np.save(other, expect[:, :, :12])
    for damaged in (b"", whole[:50], whole[:-1], whole + b"x", b"x" * len(whole), other.getvalue()):
        path.write_bytes(damaged)
        assert np.array_equal(build(folder, faces, tmp_path / "cache"), expect)
        assert path.read_bytes() == whole


def test_a_half_written_cache_is_never_used_and_leaves_nothing(
    folder, faces, tmp_path, monkeypatch
):
    images = iter(range(99))

    def stop(image, size):
        if next(images) >= 4:
            raise KeyboardInterrupt
        return resize(image, size)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "resize", stop)
        build(folder, faces, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert build(folder, faces, tmp_path / "cache").any(axis=(1, 2, 3)).all()


def test_a_full_disk_leaves_nothing_behind(folder, faces, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build(folder, faces, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_face_that_vanished_or_changed_is_named(folder, faces, tmp_path):
    gone, changed = folder / faces.file[0], folder / faces.file[5]
    gone.unlink()
    changed.write_bytes(stored(99))
    with pytest.raises(DataError) as error:
        build(folder, faces, tmp_path / "cache")
    got = str(error.value)
    assert got.startswith(f"{folder}: 2 of 12 faces vanished or changed") and gone.name in got
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_valid_face_is_an_error(folder, faces, tmp_path):
    with pytest.raises(DataError, match="no face of the index is valid"):
        build(folder, faces[faces.status != "ok"], tmp_path / "cache")


def test_one_that_builds_while_another_builds_does_not_spoil_it(
    folder, faces, tmp_path, monkeypatch
):
    meanwhile = []

    def interrupted(path, shape, rows):
        rows = iter(rows)
        first = [next(rows), next(rows)]
        meanwhile.append(build_plainly(folder, faces, tmp_path / "cache"))
        write(path, shape, [*first, *rows])

    def build_plainly(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_write", write)
            return build(*arguments)

    write = module._write
    monkeypatch.setattr(module, "_write", interrupted)
    got = build(folder, faces, tmp_path / "cache")
    assert np.array_equal(got, meanwhile[0]) and np.array_equal(got, build(folder, faces, None))
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.slow
def test_two_processes_at_once_do_not_spoil_it(folder, faces, tmp_path):
    expect = build(folder, faces, None)
    start = multiprocessing.get_context("spawn")
    both = [start.Process(target=build, args=(folder, faces, tmp_path / "cache")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert np.array_equal(build(folder, faces, tmp_path / "cache"), expect)


def test_the_middle_square_of_an_oblong_picture_is_kept():
    image = Image.new("RGB", (60, 20), "red")
    image.paste((0, 0, 255), (20, 0, 40, 20))
    for oblong in (image, image.transpose(Image.Transpose.ROTATE_90)):
        got = resize(oblong, 10)
        assert got.shape == (3, 10, 10) and got.dtype == np.uint8
        assert got[:, 5, 5].tolist() == [0, 0, 255] and got[0].max() <= 20


def test_normalised_images_are_float32_of_imagenet_statistics():
    batch = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    got = to_float(batch)
    expect = (batch.numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    assert got.dtype == torch.float32 and got.shape == batch.shape
    assert np.allclose(got.numpy(), expect, atol=1e-5)


def batch_of(n=6, size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator).to(torch.uint8)


def test_no_augmentation_is_the_plain_batch():
    torch.testing.assert_close(Augmentation("none")(batch_of()), to_float(batch_of()))


def test_a_flip_mirrors_some_faces_and_leaves_the_others():
    torch.manual_seed(0)
    plain, got = to_float(batch_of(20)), Augmentation("flip")(batch_of(20))
    mirrored = [torch.allclose(g, p.flip(2), atol=1e-5) for g, p in zip(got, plain, strict=True)]
    kept = [torch.allclose(g, p, atol=1e-5) for g, p in zip(got, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 3 < sum(mirrored) < 17


def test_a_full_augmentation_changes_each_face_its_own_way_and_is_seeded():
    same = batch_of(1).repeat(8, 1, 1, 1)
    augment = Augmentation("full")
    torch.manual_seed(3)
    got = augment(same)
    assert got.shape == same.shape and got.isfinite().all()
    assert len({face.sum().item() for face in got}) > 4
    torch.manual_seed(3)
    assert torch.equal(augment(same), got)


def test_faces_are_moved_no_further_than_stated():
    """A dot beside the middle: mirrored in half of the faces, else near where it was."""
    torch.manual_seed(0)
    size, at = 64, 48
    dot = torch.zeros(2000, 3, size, size)
    dot[:, :, 32, at] = 1.0
    got = augmentation._moved(dot)[:, 0]
    places = torch.arange(size) + 0.5 - size / 2  # pixels from the middle
    mass = got.sum((1, 2)).clamp_min(1e-6)
    down, across = ((got.sum(other) * places).sum(1) / mass for other in (2, 1))
    assert 0.45 < (across < 0).float().mean() < 0.55
    start, shift = at + 0.5 - size / 2, 0.06 * size
    assert across.abs().max() < 1.11 * start + 1.5 * shift
    assert down.abs().max() < 0.5 + 1.11 * start * np.sin(np.pi / 18) + 1.5 * shift
    plain = dot[:, 0]
    changed = torch.minimum((got - plain).abs(), (got - plain.flip(-1)).abs()).amax((1, 2))
    assert 0.15 < (changed < 1e-3).float().mean() < 0.25


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turn_a_shift_and_a_scale_are_those_of_torchvision(monkeypatch, mirrored):
    draws = [0.0 if mirrored else 1.0, 0.0, 0.1, 0.05, -0.1, 0.08]  # of the range: angle to scale
    monkeypatch.setattr(
        augmentation, "_drawn", lambda batch, *_: torch.full((1, 1, 1, 1), draws.pop(0))
    )
    face = resize(Image.fromarray(np.arange(27, dtype=np.uint8).reshape(3, 3, 3) * 9), 64)
    face = torch.from_numpy(face)[None].float() / 255
    got = augmentation._moved(face)
    start = face.flip(-1) if mirrored else face
    # where the pixels are read that come to lie at a place: the face goes the other way
    read = [-0.05 * 32 if mirrored else 0.05 * 32, -0.1 * 32]
    turned = np.array([[np.cos(0.1), np.sin(0.1)], [-np.sin(0.1), np.cos(0.1)]])
    moved = (-1.08 * turned @ read).tolist()
    expect = affine(
        start, -np.degrees(0.1), moved, 1.08, [0.0], interpolation=InterpolationMode.BILINEAR
    )
    inner = slice(14, 50)
    torch.testing.assert_close(got[..., inner, inner], expect[..., inner, inner], atol=0.02, rtol=0)


def test_colours_are_changed_as_torchvision_does(monkeypatch):
    draws = [0.0, 0.15, -0.2, 0.1]
    monkeypatch.setattr(
        augmentation, "_drawn", lambda batch, *_: torch.full((1, 1, 1, 1), draws.pop(0))
    )
    face = 0.3 + 0.4 * batch_of(1).float() / 255  # nothing to clamp on the way
    got = augmentation._recoloured(face)
    expect = adjust_contrast(adjust_saturation(face, 1.15), 0.8)
    torch.testing.assert_close(got, adjust_brightness(expect, 1.1), atol=2e-3, rtol=0)


def test_colours_change_by_a_fifth_at_most_in_four_of_five_faces():
    torch.manual_seed(0)
    grey = torch.full((2000, 3, 4, 4), 0.5)  # which only brightness changes
    got = augmentation._recoloured(grey)[:, 0, 0, 0] / 0.5
    assert 0.15 < torch.isclose(got, torch.ones(())).float().mean() < 0.25
    assert 0.8 <= got.min() < 0.81 and 1.19 < got.max() <= 1.2001
    half_red = torch.zeros(2000, 3, 4, 4)
    half_red[:, 0, :, 2:] = 0.5
    red, green = augmentation._recoloured(half_red)[:, :2, 0].unbind(1)
    assert (red[:, 3] - red[:, 0]).std() > 0.02  # contrast
    assert (green[:, 3] - green[:, 0]).std() > 0.002  # saturation


def test_a_quarter_of_the_faces_loses_a_rectangle_of_two_to_ten_per_cent():
    torch.manual_seed(0)
    erased = augmentation._erased(torch.ones(2000, 3, 50, 50))[:, 0] == 0.5
    gone = erased[erased.any((1, 2))]
    assert 0.2 < len(gone) / 2000 < 0.3
    area, high, wide = gone.float().mean((1, 2)), gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), high * wide)  # nothing but a rectangle
    assert 0.01 < area.min() < 0.03 and 0.09 < area.max() < 0.12
    assert 1.5 < (high / wide).max() < 4.5 and 1.5 < (wide / high).max() < 4.5
    edges = gone.any(0)
    assert edges[0].any() and edges[-1].any() and edges[:, 0].any() and edges[:, -1].any()
