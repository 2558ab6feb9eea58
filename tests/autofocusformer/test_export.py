from export_checks import assert_exports
from small_models import keep_first_layers


def test_export(build_model_on_tokens):
    """Of images with more tokens than a neighborhood has, whatever part of a cluster is empty."""
    model = build_model_on_tokens(depths=(1, 1, 1, 1))
    keep_first_layers(model.sem_seg_head)
    assert_exports(model, (160, 224), [(128, 192)])
