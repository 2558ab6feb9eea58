from compile_checks import assert_compiles, on_request


@on_request
def test_one_graph(build_perturbed_model, build_pyramid):
    """Images are not padded, the features of those that the backbone pads are cut."""
    model = build_perturbed_model(backbone=build_pyramid(size_divisibility=32))
    assert_compiles(model, [(130, 150), (133, 101)])
