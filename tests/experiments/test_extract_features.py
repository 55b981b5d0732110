"""Features of images: those of the model alone; what cannot be used is one line."""

import json
from unittest import mock

import numpy as np
import pytest
import sweeps
from PIL import Image

from experiments import extract_features
from experiments.sweep import __main__ as sweep
from jaxscape import InputError

pytestmark = pytest.mark.usefixtures("in_haste")
MEAN, STD = [0.2, 0.3, 0.4], [0.5, 0.6, 0.7]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a tiny Vision Transformer of random weights that names its normalisation."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, num_channels=3, initializer_range=0.5,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessor", "image_mean": MEAN, "image_std": STD}
    settings["size"] = {"height": 32, "width": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def images(path, channels=1, size=28):
    """A data set of 30 random images with a test split of 10."""
    rng = np.random.default_rng(channels)
    shape = (40, size, size, channels)
    inputs, targets = rng.integers(0, 256, shape, np.uint8), rng.integers(3, size=40)
    np.savez(path, inputs=inputs[:30], targets=targets[:30], test_inputs=inputs[30:],
             test_targets=targets[30:])  # fmt: skip
    return inputs, targets


def alone(model, image, mean, std):
    """The class token of one image, resized by PIL to bytes, run through the model on its own."""
    import torch
    import transformers

    channels = [image[..., min(c, image.shape[-1] - 1)] for c in range(3)]
    pixels = []
    for channel, m, s in zip(channels, mean, std, strict=True):
        plane = Image.fromarray(channel).resize((32, 32), Image.Resampling.BILINEAR)
        pixels.append((np.asarray(plane) / 255 - m) / s)
    network = transformers.ViTModel.from_pretrained(model).eval()
    with torch.no_grad():
        found = network(torch.tensor(np.stack(pixels)[None], dtype=torch.float32))
    return found.last_hidden_state[0, 0].numpy()


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 45)])
def test_features_are_those_of_each_image_alone(model, tmp_path, monkeypatch, channels, size):
    inputs, targets = images(tmp_path / "images.npz", channels, size)
    out = tmp_path / "features.npz"
    monkeypatch.setattr(extract_features, "BATCH", 7)
    argv = ["--dataset", f"npz:{tmp_path / 'images.npz'}", "--model", str(model)]
    assert extract_features.main([*argv, "--out", str(out)]) == 0
    with np.load(out) as found:
        np.testing.assert_array_equal(found["targets"], targets[:30])
        np.testing.assert_array_equal(found["test_targets"], targets[30:])
        assert found["inputs"].shape == (30, 8)
        assert found["inputs"].dtype == found["test_inputs"].dtype == np.float32
        for row in (0, 6, 7, 29):
            wanted = alone(model, inputs[row], MEAN, STD)
            np.testing.assert_allclose(found["inputs"][row], wanted, atol=2e-5)
        wanted = alone(model, inputs[39], MEAN, STD)
        np.testing.assert_allclose(found["test_inputs"][9], wanted, atol=2e-5)
        assert np.ptp(found["inputs"], 0).min() > 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.npz", "images.npz"]


def test_a_sweep_reads_the_file(model, tmp_path, capsys):
    images(tmp_path / "images.npz")
    out = tmp_path / "features.npz"
    argv = ["--dataset", f"npz:{tmp_path / 'images.npz'}", "--model", str(model)]
    assert extract_features.main([*argv, "--out", str(out)]) == 0
    assert f"--dataset npz:{out}" in capsys.readouterr().out
    small = ["--k-max", "30", "--layers", "0", "--epochs", "1", "--points", "4"]
    small += ["--subspace", "random", "--dim", "2"]
    status, error = sweeps.run(["--dataset", f"npz:{out}", *small], tmp_path / "run", capsys)
    assert status == 0, error
    arrays, summary = sweeps.read(tmp_path / "run")
    assert summary["num_parameters"] == 8 * 3 + 3
    found, config, store = sweeps.restored(["--dataset", f"npz:{out}", *small], tmp_path / "run")
    params = sweep.prepare.trained(found, config, store)
    with np.load(out) as stored:
        samples = {name: stored[name][arrays["order"]] for name in ("inputs", "targets")}
    wanted = sweeps.flax_losses64(params, samples)
    np.testing.assert_allclose(arrays["loss_at_origin"], wanted, rtol=1e-4)


def test_bad_input_is_one_line_and_leaves_nothing(model, tmp_path, capsys, monkeypatch):
    import transformers

    monkeypatch.setenv("JAXSCAPE_OFFLINE", "1")
    images(tmp_path / "images.npz")
    images(tmp_path / "four.npz", channels=4)
    rows = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", inputs=rows, targets=np.zeros(20, np.int32))
    (tmp_path / "taken.npz").write_text("")
    bert = tmp_path / "bert"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = transformers.BertConfig(intermediate_size=8, vocab_size=10, **sizes)
    transformers.BertModel(tiny).save_pretrained(bert)
    bare = tmp_path / "bare"
    transformers.ViTModel.from_pretrained(model).save_pretrained(bare)
    before = sorted(tmp_path.iterdir())
    argv = ["--dataset", f"npz:{tmp_path / 'images.npz'}", "--model", str(model)]
    capsys.readouterr()
    for more, words in (
        (["--model", "nobody/no-such-model"], "expected a model nobody/no-such-model"),
        (["--model", str(tmp_path)], "expected a model"),
        (["--model", str(bert)], "class token"),
        (["--model", str(bare)], "its image processor"),
        (["--dataset", f"npz:{tmp_path / 'rows.npz'}"], "expected images"),
        (["--dataset", f"npz:{tmp_path / 'four.npz'}"], "expected images"),
        (["--out", str(tmp_path / "taken.npz")], "found one"),
        (["--out", str(tmp_path / "features")], "end in .npz"),
        (["--out", str(tmp_path / "taken.npz" / "features.npz")], "taken.npz"),
    ):
        out = [] if "--out" in more else ["--out", str(tmp_path / "features.npz")]
        assert extract_features.main([*argv, *out, *more]) == 2
        error = capsys.readouterr().err.splitlines()
        assert words in error[-1]
        assert [line for line in error if "extract_features:" in line] == error[-1:]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_absent_libraries_are_one_line(name):
    both = {"torch": mock.Mock(), "transformers": mock.Mock()}
    with (
        mock.patch.dict("sys.modules", both | {name: None}),
        pytest.raises(InputError, match=f"^expected .*, found no {name}; pip install .*$"),
    ):
        extract_features.vision_transformer("nobody/no-such-model")
