import pytest
import torch

from mask2former.postprocess import mask_prediction
from segcore.inference import PanopticMerging, ResultMaker, one_pass
from segcore.inference.merging import STRATEGIES


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_large_scores_come_after_instances_and_change_nothing(strategy, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    class_logits = 2 * torch.randn(12, 8, generator=generator)
    masks = 3 * torch.randn(12, 16, 24, generator=generator)
    prediction = mask_prediction(class_logits, masks, ((64, 96), (61, 83), (70, 75)), topk=30)
    merging = PanopticMerging(
        strategy,
        score_threshold=0.1,
        min_visible_share=0.1,
        quality_thresholds=(0.1, 0.05),
        overlap_thresholds=(0.8, 0.7),
    )
    make_results = ResultMaker(merging, frozenset({0, 1, 2}))
    expected = make_results(prediction)

    returned = []
    monkeypatch.setattr(one_pass, "LARGE_BYTES", 1)
    monkeypatch.setattr(one_pass, "return_freed_memory", lambda: returned.append(1))
    actual = make_results(prediction)
    assert returned == [1]
    assert actual.keys() == expected.keys()
    torch.testing.assert_close(actual["sem_seg"], expected["sem_seg"])
    assert torch.equal(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert actual["panoptic_seg"][1] == expected["panoptic_seg"][1] != []
    for name, values in expected["instances"].get_fields().items():
        other = actual["instances"].get(name)
        assert torch.equal(getattr(values, "tensor", values), getattr(other, "tensor", other))
