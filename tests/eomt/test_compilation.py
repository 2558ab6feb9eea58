from compile_checks import assert_compiles, on_request
from eomt_models import small_model


@on_request
def test_one_graph():
    model = small_model()
    assert_compiles(model, [model.input_size])
