"""Embedded digits: legible, balanced, reproducible, hard enough."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from jaxscape.lab import fonts, glyphs
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


def test_same_seed_same_glyphs():
    for first, second in zip(glyphs.draw(700, 5), glyphs.draw(700, 5), strict=True):
        np.testing.assert_array_equal(first, second)


def test_other_seed_other_glyphs():
    first, second = glyphs.draw(700, 5), glyphs.draw(700, 6)
    assert np.mean(first[0] != second[0]) > 0.3
    assert np.mean(first[1] != second[1]) > 0.8


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
    rows = np.rint(47.5 + (np.arange(28) - 13.5) * fonts.HEIGHT / glyphs.HEIGHT).astype(int)
    upright = (fonts.masters() > 0).mean(0)[:, rows[:, None], rows]
    means = np.stack([train[0][train[1] == digit, ..., 0].mean(0) for digit in range(10)])

    def correlation(templates):
        return np.corrcoef(means.reshape(10, -1), templates.reshape(10, -1))[:10, 10:]

    np.testing.assert_array_equal(correlation(upright).argmax(1), np.arange(10))
    lopsided = [2, 3, 4, 5, 6, 7, 9]
    same = np.diag(correlation(upright))[lopsided]
    for mirrored in (upright[:, ::-1], upright[:, :, ::-1], upright.transpose(0, 2, 1)):
        assert np.all(same > np.diag(correlation(mirrored))[lopsided] + 0.02)


def test_affine_part_is_scale_shear_rotation_shift_of_the_stated_size():
    """Taken apart again, [[a, b], [c, d]] = diag(scale) [[1, shear], [0, 1]] rotation."""
    n = 4000
    x, y = glyphs._affine(np.random.default_rng(0), n)
    (a, b), (c, d) = ((p[:, 0, 1] - p[:, 0, 0], p[:, 1, 0] - p[:, 0, 0]) for p in (x, y))
    scale_y = np.hypot(c, d)
    scale_x = (a * d - b * c) / scale_y
    shear = (a * c + b * d) / (scale_x * scale_y)
    centre = np.stack([x[:, 13:15, 13:15].mean((1, 2)), y[:, 13:15, 13:15].mean((1, 2))])
    shift = -np.linalg.solve(np.stack([[a, b], [c, d]]).transpose(2, 0, 1), centre.T[..., None])
    error = 4 / np.sqrt(n)  # four standard errors of a mean, in standard deviations
    for drawn, deviation in (
        (np.arctan2(c, d), np.radians(10)),
        (shear, 0.15),
        (np.log(scale_x * glyphs.HEIGHT / fonts.HEIGHT), 0.12),
        (np.log(scale_y * glyphs.HEIGHT / fonts.HEIGHT), 0.12),
        (shift[:, 0], 2.5 / np.sqrt(3)),
        (shift[:, 1], 2.5 / np.sqrt(3)),
    ):
        assert abs(drawn.mean()) < error * deviation
        assert abs(drawn.std() / deviation - 1) < error
    assert np.abs(shift).max() <= 2.5 + 1e-9


def test_elastic_part_is_smooth_yet_not_affine():
    field = glyphs._elastic(np.random.default_rng(0), 500)
    assert 2 < np.sqrt(np.mean(field**2)) < 3.5  # pixels of the master
    steps = np.diff(field, axis=-1)
    assert np.sqrt(np.mean(steps**2)) < 0.25 * np.sqrt(np.mean(field**2))
    u, v = np.meshgrid(np.arange(28.0), np.arange(28.0))
    affine = np.stack([np.ones(784), u.ravel(), v.ravel()], 1)
    flat = field.reshape(-1, 784).T
    rest = flat - affine @ np.linalg.lstsq(affine, flat, rcond=None)[0]
    assert np.sqrt(np.mean(rest**2)) > 1


def test_background_is_noisy(train):
    corners = train[0][:, [0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert 0.35 < np.mean(corners > 0) < 0.55  # the positive half of Gaussian noise


class Extreme(np.random.Generator):
    """Uniform numbers at one end of their range, all others at zero."""

    def __init__(self, high):
        super().__init__(np.random.PCG64(0))
        self.high = high

    def uniform(self, low=0.0, high=1.0, size=None):
        return np.full(size, high if self.high else low)

    def normal(self, loc=0.0, scale=1.0, size=None):
        return np.zeros(size)

    def standard_normal(self, size=None):
        return np.zeros(size)

    def integers(self, low, high=None, size=None):
        return np.zeros(size, int)


def test_stroke_weight_and_contrast_vary():
    """At half the contrast an edge lies where it would without softness: only weight moves it."""
    labels = np.arange(10)
    thin, thick = (glyphs._images(Extreme(high), labels).astype(float) for high in (False, True))
    np.testing.assert_allclose(thin.max((1, 2)), 128, atol=1)  # contrast from 0.5
    np.testing.assert_allclose(thick.max((1, 2)), 255, atol=1)  # to 1
    area_thin, area_thick = (np.sum(x > x.max() / 2, (1, 2)) for x in (thin, thick))
    assert np.all(area_thick > 1.4 * area_thin)


def test_undistorted_masters_are_told_apart_by_their_own_digit():
    """A font's digits look like the same digits of its relatives, not like other digits."""
    ink = fonts.masters() > 0
    pairs = (
        ("DejaVuSans", "DejaVuSansMono"),
        ("DejaVuSans", "cmss10"),
        ("DejaVuSerif", "DejaVuSans"),
    )
    for pair in pairs:
        a, b = (ink[fonts.NAMES.index(name)].reshape(10, -1).astype(float) for name in pair)
        overlap = a @ b.T / np.sqrt(np.outer(a.sum(1), b.sum(1)))
        np.testing.assert_array_equal(overlap.argmax(1), np.arange(10))


def test_no_font_repeats_a_digit_or_lacks_one():
    ink = (fonts.masters() > 0).reshape(len(fonts.NAMES), 10, -1)
    for font in ink:
        assert len({digit.tobytes() for digit in font}) == 10
    assert ink.sum(-1).min() > 150


def test_master_is_the_distance_to_the_edge_of_the_ink():
    """Against SciPy, for every font's every digit."""
    ink = fonts.masters() > 0
    for field, inside in zip(
        fonts.masters().reshape(-1, 96, 96), ink.reshape(-1, 96, 96), strict=True
    ):
        inner, outer = distance_transform_edt(inside), distance_transform_edt(~inside)
        expected = np.where(inside, inner - 0.5, 0.5 - outer)
        limit = fonts.REACH - 0.5
        np.testing.assert_allclose(field, np.clip(expected, -limit, limit), atol=1e-5)


def test_sampling_a_master_is_bilinear():
    """A field that is linear in x and y is reproduced between its pixels, from the right digit."""
    y, x = np.mgrid[:9, :9].astype(np.float32)
    masters = np.stack([x + 10 * y, 100 + 2 * x - y])[None]
    position = np.random.default_rng(0).uniform(-3.9, 3.9, (2, 2, 28, 28))
    found = glyphs._sample(masters, np.array([1, 0]), position)
    px, py = position + 4
    expected = np.stack([100 + 2 * px[0] - py[0], px[1] + 10 * py[1]])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_drawing_nothing_is_refused():
    with pytest.raises(InputError, match="at least one glyph"):
        glyphs.draw(0, 0)


def test_a_missing_font_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"DejaVuSans\.ttf"):
        fonts._raster("DejaVuSans", "3")


@pytest.fixture
def few(monkeypatch):
    """Draw 1 in 1000 of the glyphs, counting the calls."""
    calls = []

    def draw(num, seed):
        calls.append(num)
        return original(num // 1000, seed)

    original = glyphs.draw
    monkeypatch.setattr(glyphs, "draw", draw)
    return calls


def test_drawn_once_then_read_from_the_cache(few, tmp_path):
    first = glyphs.load(cache_dir=tmp_path)
    second = glyphs.load(cache_dir=tmp_path)
    assert few == [60_000, 10_000]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_another_seed_has_a_cache_of_its_own(few, tmp_path):
    first, second = (glyphs.load(seed=seed, cache_dir=tmp_path) for seed in (0, 1))
    assert len(few) == 4
    assert np.any(first.train_inputs != second.train_inputs)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None], ids=["empty", "stub", "halved"])
def test_a_damaged_cache_is_drawn_again(few, tmp_path, damage):
    first = glyphs.load(cache_dir=tmp_path)
    (path,) = (tmp_path / "glyphs").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    np.testing.assert_array_equal(glyphs.load(cache_dir=tmp_path).train_inputs, first.train_inputs)
    assert len(few) == 4
    assert path.stat().st_size == len(whole)


def test_a_cache_that_cannot_be_written_is_no_error(few, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    assert len(glyphs.load(cache_dir=blocker).train_inputs) == 60
