"""Embedded digits: legible, balanced, reproducible, hard enough."""

import numpy as np
import pytest

from jaxscape.lab import glyphs
from jaxscape.types import InputError


@pytest.fixture(scope="module")
def train():
    return glyphs.draw(6000, [0, 0])


@pytest.fixture(scope="module")
def test():
    return glyphs.draw(2000, [0, 1])


def test_shapes_types_and_range(train):
    images, labels = train
    assert images.shape == (6000, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert images.min() == 0
    assert images.max() == 255


@pytest.mark.parametrize("num", [1, 7, 500, 501, 1234])
def test_classes_are_balanced_for_every_count(num):
    images, labels = glyphs.draw(num, 3)
    counts = np.bincount(labels, minlength=10)
    assert len(images) == len(labels) == num
    assert counts.max() - counts.min() <= 1


def test_order_of_labels_is_random(train):
    labels = train[1]
    repeats = np.mean(labels[1:] == labels[:-1])  # 1/10 ± 0.004 for a random order
    assert 0.08 < repeats < 0.12


def test_no_image_is_shared_between_splits(train, test):
    seen = {image.tobytes() for image in train[0]}
    assert len(seen) == len(train[0])
    assert seen.isdisjoint(image.tobytes() for image in test[0])


def test_every_image_shows_ink(train):
    brightest = np.sort(train[0].reshape(6000, -1), axis=1)[:, -20:].mean(1)
    assert brightest.min() > 60


def test_ink_stays_inside_the_frame(train):
    edge = np.concatenate([train[0][:, [0, -1]].ravel(), train[0][:, :, [0, -1]].ravel()])
    assert edge.mean() < 0.3 * train[0].mean()


def test_labels_match_images_for_a_linear_classifier(train, test):
    def features(images):
        flat = images.reshape(len(images), -1) / 255.0
        return np.concatenate([flat, np.ones((len(flat), 1))], 1)

    x, y = features(train[0]), np.eye(10)[train[1]]
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ y)
    accuracy = np.mean((features(test[0]) @ weights).argmax(1) == test[1])
    assert 0.5 < accuracy < 0.95  # the labels fit, yet the pixels alone do not settle them


def test_class_means_look_like_the_upright_digits_of_their_labels(train):
    """Nearest to the undistorted digit of the same label, not to another nor to a mirrored one."""
    rows = np.rint(47.5 + (np.arange(28) - 13.5) * glyphs.MASTER_HEIGHT / glyphs.HEIGHT).astype(int)
    upright = (glyphs.masters() > 0).mean(0)[:, rows[:, None], rows]
    means = np.stack([train[0][train[1] == digit, ..., 0].mean(0) for digit in range(10)])

    def correlation(templates):
        return np.corrcoef(means.reshape(10, -1), templates.reshape(10, -1))[:10, 10:]

    np.testing.assert_array_equal(correlation(upright).argmax(1), np.arange(10))
    lopsided = [2, 3, 4, 5, 6, 7, 9]
    same = np.diag(correlation(upright))[lopsided]
    for mirrored in (upright[:, ::-1], upright[:, :, ::-1], upright.transpose(0, 2, 1)):
        assert np.all(same > np.diag(correlation(mirrored))[lopsided] + 0.02)


def test_background_is_noisy(train):
    corners = train[0][:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert 0.35 < np.mean(corners > 0) < 0.55  # the positive half of Gaussian noise


def test_undistorted_masters_are_told_apart_by_their_own_digit():
    """A font's digits look like the same digits of its relatives, not like other digits."""
    ink = glyphs.masters() > 0
    pairs = (
        ("DejaVuSans", "DejaVuSansMono"),
        ("DejaVuSans", "cmss10"),
        ("DejaVuSerif", "DejaVuSans"),
    )
    for pair in pairs:
        a, b = (ink[glyphs.FONTS.index(name)].reshape(10, -1).astype(float) for name in pair)
        overlap = a @ b.T / np.sqrt(np.outer(a.sum(1), b.sum(1)))
        np.testing.assert_array_equal(overlap.argmax(1), np.arange(10))


def test_no_font_repeats_a_digit_or_lacks_one():
    ink = (glyphs.masters() > 0).reshape(len(glyphs.FONTS), 10, -1)
    for font in ink:
        assert len({digit.tobytes() for digit in font}) == 10
    assert ink.sum(-1).min() > 150


def test_the_seed_alone_decides():
    first, again, other = (glyphs.draw(700, seed) for seed in (5, 5, 6))
    for index, changed in enumerate((0.3, 0.8)):
        np.testing.assert_array_equal(first[index], again[index])
        assert np.mean(first[index] != other[index]) > changed


@pytest.mark.parametrize(("font", "digit"), [("DejaVuSans", 4), ("cmti10", 8)])
def test_a_master_is_the_distance_to_the_edge_of_the_ink(font, digit):
    """Half a pixel less than to the nearest pixel on the other side, each compared with all."""
    field = glyphs.masters()[glyphs.FONTS.index(font), digit]
    inside, outside = np.argwhere(field > 0), np.argwhere(field < 0)
    rng = np.random.default_rng(0)
    for here, there, sign in ((inside, outside, 1), (outside, inside, -1)):
        for pixel in rng.choice(here, 200):
            nearest = min(np.sqrt(((there - pixel) ** 2).sum(1)).min(), glyphs.REACH) - 0.5
            assert abs(field[tuple(pixel)] - sign * nearest) < 1e-5


def test_a_missing_font_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    glyphs.masters.cache_clear()
    with pytest.raises(InputError, match=r"DejaVuSans\.ttf"):
        glyphs.masters()
