import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from utkcmp.data import duplicates
from utkcmp.data.duplicates import perceptual_hash, same_pictures


def picture(seed=0, side=200):
    blots = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
    return Image.fromarray(blots).resize((side, side), Image.Resampling.BICUBIC)


def grouped(*images) -> list[int]:
    """The first file of the picture that each image belongs to."""
    hashes, thumbs = zip(*map(perceptual_hash, images), strict=True)
    label = same_pictures([str(i) for i in range(len(images))], list(hashes), np.stack(thumbs))
    return [label.tolist().index(k) for k in label]


def compressed(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def test_a_picture_stored_again_is_the_same_picture():
    again = {
        "compressed": compressed(picture(), 30),
        "reduced": picture().resize((100, 100)),
        "brighter": ImageEnhance.Brightness(picture()).enhance(1.2),
        "paler": ImageEnhance.Contrast(picture()).enhance(0.6),
        "cropped by a pixel": picture().crop((1, 1, 200, 200)),
    }
    got = grouped(picture(), *again.values())
    assert dict(zip(again, got[1:], strict=True)) == dict.fromkeys(again, 0)


def test_other_pictures_are_other_pictures():
    images = [picture(seed) for seed in range(200)] + [picture().transpose(0), picture().rotate(90)]
    assert grouped(*images) == list(range(202))


def test_alike_shapes_in_other_colours_are_other_pictures():
    rng, faces = np.random.default_rng(0), []
    for _ in range(2):  # the same grey shapes, noise of its own, other colours
        grey = np.asarray(picture().convert("L")).astype(float)
        tint = np.asarray(
            Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((200, 200))
        )
        faces.append(Image.fromarray((grey[..., None] * 0.5 + tint * 0.5).astype(np.uint8)))
    assert grouped(*faces) == [0, 1]


def test_blank_pictures_have_no_hash_and_form_no_group():
    blank = [Image.new("RGB", (64, 64), colour) for colour in ("red", "white", "white")]
    assert [perceptual_hash(image)[0] for image in blank] == ["", "", ""]
    assert grouped(*blank) == [0, 1, 2]


def test_equal_bytes_are_the_same_picture_whatever_the_hash():
    got = same_pictures(["a", "b", "a"], ["", "", ""], np.zeros((3, 16, 16, 3), np.uint8))
    assert got[0] == got[2] != got[1]


def test_near_duplicates_chain():
    images = [picture(), compressed(picture(), 60), compressed(compressed(picture(), 60), 25)]
    assert grouped(*images, picture(1)) == [0, 0, 0, 3]


@pytest.mark.parametrize("block, thumbs_at_once", [(1, 1), (300, 7), (10**6, 10**6)])
def test_blocks_find_the_groups_that_comparing_one_by_one_finds(monkeypatch, block, thumbs_at_once):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, 256))
    for i in range(20, 40):  # half of them are near to one of the others
        bits[i] = bits[i - 20]
        bits[i, rng.permutation(256)[: 3 * (i - 20)]] ^= 1
    thumbs = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    thumbs[20::2] = thumbs[:20:2]
    hashes = [np.packbits(b).tobytes().hex() for b in bits]
    monkeypatch.setattr(duplicates, "BLOCK", block)
    monkeypatch.setattr(duplicates, "THUMBS", thumbs_at_once)
    got = duplicates._near(hashes, thumbs)
    expect = np.arange(40)
    for i in range(40):
        for j in range(i + 1, 40):
            distance = (bits[i] != bits[j]).sum()
            if distance <= 14 or (distance <= 46 and j == i + 20 and i % 2 == 0):
                expect[expect == expect[j]] = expect[i]
    assert 25 < len(set(expect)) < 35
    assert np.array_equal(got[:, None] == got, expect[:, None] == expect)


def test_thousands_of_pictures_that_are_all_alike_take_little_memory():
    """All pairs of them at once would take 24 GB; numpy tells tracemalloc what it takes."""
    rng, count = np.random.default_rng(0), 4000
    bits = np.repeat(rng.integers(0, 2, (1, 256)), count, axis=0)
    for row in bits:
        row[rng.permutation(256)[:12]] ^= 1  # two of them differ in more than SURE_BITS
    hashes = [np.packbits(row).tobytes().hex() for row in bits]
    thumbs = np.repeat(rng.integers(0, 256, (1, 16, 16, 3), np.uint8), count, axis=0)
    tracemalloc.start()
    got = same_pictures(list(map(str, range(count))), hashes, thumbs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(got)) == 1 and peak < 400e6
