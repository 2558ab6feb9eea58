"""What holds for every backbone that returns maps."""

from functools import partial

import pytest
import torch

from backbone_models import randomised
from export_checks import assert_exports
from segcore.backbones import D2SwinTransformer, PyramidVisionTransformerV2

SWIN = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
TWO_STAGES = SWIN | {"depths": (2, 2), "num_heads": (1, 2), "out_features": ("res2", "res3")}
PVT = {"embed_dims": (8, 8, 12, 16), "num_heads": (1, 2, 2, 4), "depths": (1, 1, 2, 1)}

backbones = pytest.mark.parametrize(
    "build",
    [partial(D2SwinTransformer, **SWIN), partial(PyramidVisionTransformerV2, **PVT)],
    ids=["Swin", "PVT v2"],
)


def image(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, dtype=torch.float64)


@backbones
def test_checkpointing_gives_the_same_gradients(build):
    pixels, gradients = image(batch=2), []
    for use_checkpoint in (False, True):
        torch.manual_seed(1)
        model = randomised(build(use_checkpoint=use_checkpoint, drop_path_rate=0.0)).train()
        sum(feature.square().mean() for feature in model(pixels).values()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(gradient is not None for gradient in gradients[0])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@backbones
def test_drop_path_acts_in_training_only(build):
    model, pixels = randomised(build(drop_path_rate=0.7)), image()
    assert torch.equal(model(pixels)["res5"], model(pixels)["res5"])
    model.train()
    assert not torch.equal(model(pixels)["res5"], model(pixels)["res5"])


@backbones
def test_an_image_is_no_batch(build):
    with pytest.raises(ValueError, match=r"expected a batch \(B, C, H, W\), got \(3, 32, 32\)"):
        build()(torch.zeros(3, 32, 32))


@backbones
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_autocast(build, dtype):
    model = build().eval()
    pixels = torch.randn(1, 3, 40, 40)
    exact = model(pixels)
    with torch.autocast("cpu", dtype):
        features = model(pixels)
    for name, feature in features.items():
        assert (feature.float() - exact[name]).abs().max() < 0.2


@pytest.mark.parametrize(
    "build",
    [
        partial(D2SwinTransformer, **TWO_STAGES),
        partial(PyramidVisionTransformerV2, **PVT),
    ],
    ids=["Swin", "PVT v2"],
)
def test_export(build):
    """Swin: of images that have several windows in a row and column of every stage."""
    assert_exports(build(), (160, 192), [(96, 224), (224, 64)])
