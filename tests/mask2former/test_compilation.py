from compile_checks import assert_compiles
from small_models import keep_first_layers


def test_one_graph(build_small_model):
    model = build_small_model(size_divisibility=32)
    keep_first_layers(model.sem_seg_head)
    assert_compiles(model, [(128, 160), (192, 128)])
