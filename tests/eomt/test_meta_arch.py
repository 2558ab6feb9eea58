"""The model: sizes of images, losses, results, annealing that a hook drives."""

import pytest
import torch
from detectron2.engine import HookBase, TrainerBase

from eomt.annealing import MaskAnnealing, MaskAnnealingHook, build_annealing
from eomt_models import annotated, photo, small_cfg, small_model
from segcore.config.validation import validate_config
from segcore.errors import ConfigError

ALL_RESULTS = ("MODEL.EOMT.TEST.SEMANTIC_ON", True, "MODEL.EOMT.TEST.INSTANCE_ON", True)


def test_padding_is_black_before_normalization():
    model = small_model()
    images = model.preprocess_images([{"image": photo(40, 64)}])
    assert images.image_sizes == [(40, 64)] and images.tensor.shape == (1, 3, 64, 64)
    black = (-model.pixel_mean / model.pixel_std).expand(3, 24, 64)
    torch.testing.assert_close(images.tensor[0, :, 40:], black)


def test_results_have_the_output_size_whatever_the_image():
    model = small_model(*ALL_RESULTS).eval()
    inputs = [
        {"image": photo(64, 40), "height": 33, "width": 21},
        {"image": photo(200, 90)},  # larger than the input of the network
        {"image": photo(1, 1)},
    ]
    for result, size in zip(model(inputs), [(33, 21), (200, 90), (1, 1)], strict=True):
        assert result["sem_seg"].shape == (3, *size)
        assert result["panoptic_seg"][0].shape == size
        assert result["instances"].pred_masks.shape[1:] == size


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    model = small_model(*ALL_RESULTS).double().eval()
    inputs = [{"image": photo(64, 40, seed)} for seed in (1, 2)]
    together = model(inputs)
    for one, result in zip(inputs, together, strict=True):
        torch.testing.assert_close(model([one])[0]["sem_seg"], result["sem_seg"])


def test_losses_of_every_prediction_with_gradients():
    model = small_model().train()
    losses = model([annotated(64, 48), annotated(32, 64)])
    names = {f"loss_{kind}{s}" for kind in ("ce", "mask", "dice") for s in ("", "_0", "_1")}
    assert losses.keys() == names
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (("MODEL.EOMT.MASKED_ATTENTION", False), 1),
        (("MODEL.EOMT.DEEP_SUPERVISION", False), 1),
        ((), 3),
    ],
)
def test_number_of_predictions_with_losses(settings, count):
    losses = small_model(*settings).train()([annotated(64, 64)])
    assert len(losses) == 3 * count


def test_image_without_segments_has_finite_losses():
    inputs = annotated(64, 64)
    inputs["instances"] = inputs["instances"][:0]
    losses = small_model().train()([inputs])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_image_too_large_for_training_is_named():
    with pytest.raises(
        ValueError, match=r"drawn.png: expected .*\(64, 64\) in training, got \(64, 80\)"
    ):
        small_model().train()([annotated(64, 80)])


def test_evaluation_masks_only_if_asked():
    model, images = small_model().eval(), torch.randn(1, 3, 64, 64)
    plain = model.network(images)
    model.transformer.set_mask_probabilities([1.0, 1.0])
    assert torch.equal(model.network(images).mask_logits, plain.mask_logits)
    model.masked_attention_in_tests = True
    assert not torch.equal(model.network(images).mask_logits, plain.mask_logits)


def test_windows_of_a_wide_image():
    settings = ("MODEL.EOMT.TEST.PANOPTIC_ON", False, "MODEL.EOMT.TEST.SEMANTIC_ON", True)
    model = small_model(*settings, "MODEL.EOMT.TEST.WINDOWS", True).eval()
    inputs = [{"image": photo(32, 100), "height": 50, "width": 160}]
    assert model(inputs)[0]["sem_seg"].shape == (3, 50, 160)
    assert model.predict_compact(inputs)[0]["semantic_map"].shape == (50, 160)


class Steps(TrainerBase):
    """Trainer that keeps the probabilities of each step."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def run_step(self):
        self.seen.append(self.network.mask_probabilities)


def test_annealing_follows_the_iteration_alone():
    model = small_model()
    annealing = MaskAnnealing((0, 2), (2, 4))
    seen = []
    for start in (0, 2):  # a run, and one resumed
        trainer = Steps(model.transformer)
        trainer.register_hooks([MaskAnnealingHook(annealing, model.transformer)])
        trainer.train(start, 5)
        seen.append(trainer.seen)
    half = 0.5**0.9
    expected = [(1, 1), (half, 1), (0, 1), (0, half), (0, 0)]
    torch.testing.assert_close(torch.tensor(seen[0]), torch.tensor(expected))
    assert seen[1] == seen[0][2:]
    assert model.transformer.attn_mask_probs.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("blocks", "iterations", "starts", "ends"),
    [
        (3, 88692, (14782, 36955, 59128), (29564, 51737, 73910)),
        (4, 88692, (14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910)),
        (5, 39120, (6520, 11410, 16300, 21190, 26080), (13040, 17930, 22820, 27710, 32600)),
        (2, 1, (0, 1), (1, 2)),
    ],
)
def test_annealing_by_pattern(blocks, iterations, starts, ends):
    """The published steps follow from the length of the training."""
    annealing = build_annealing(
        small_cfg("MODEL.EOMT.NUM_BLOCKS", blocks, "SOLVER.MAX_ITER", iterations)
    )
    assert (annealing.start_steps, annealing.end_steps) == (starts, ends)


def test_hooks_of_the_model():
    (hook,) = small_model().training_hooks()
    assert isinstance(hook, HookBase)
    assert small_model("MODEL.EOMT.ANNEALING.ENABLED", False).training_hooks() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("INPUT.IMAGE_SIZE", 72), "INPUT.IMAGE_SIZE: expected a multiple of .*PATCH_SIZE, 16"),
        (("MODEL.EOMT.INPUT_SIZE", [64, 60]), "INPUT_SIZE: expected a multiple"),
        (("MODEL.EOMT.ANNEALING.START_STEPS", [5]), "expected START_STEPS and END_STEPS for each"),
        (
            ("MODEL.EOMT.ANNEALING.START_STEPS", [5, 6], "MODEL.EOMT.ANNEALING.END_STEPS", [9, 6]),
            "END_STEPS: expected each above its item",
        ),
        (("MODEL.EOMT.TEST.WINDOWS", True), "WINDOWS: expected False unless SEMANTIC_ON alone"),
        (("MODEL.EOMT.VIT.ARGUMENTS", [["depth"]]), "each a pair"),
        (("SOLVER.WARMUP_STAGES", [5]), "a list of 2 items"),
        (("MODEL.META_ARCHITECTURE", "MaskFormer"), "TwoStageWarmupPolyLR is for"),
    ],
)
def test_wrong_values(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(small_cfg(*settings))


def test_more_blocks_than_the_vit_has():
    with pytest.raises(ValueError, match=r"num_blocks: expected 1 to 4.*MODEL.EOMT.NUM_BLOCKS"):
        small_model("MODEL.EOMT.NUM_BLOCKS", 5)
