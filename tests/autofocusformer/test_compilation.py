from compile_checks import assert_compiles, on_request
from small_models import keep_first_layers


@on_request
def test_one_graph(build_model_on_tokens):
    """Of images with more tokens than a neighborhood has."""
    model = build_model_on_tokens(depths=(1, 1, 1, 1))
    keep_first_layers(model.sem_seg_head)
    assert_compiles(model, [(160, 224), (128, 192)])
