from compile_checks import assert_compiles
from eomt_models import small_model


def test_one_graph():
    model = small_model()
    assert_compiles(model, [model.input_size])
