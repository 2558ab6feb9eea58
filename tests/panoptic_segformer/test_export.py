"""The network as an exported graph."""

from export_checks import assert_exports


def test_one_graph_serves_images_of_every_size(build_perturbed_model, build_pyramid):
    model = build_perturbed_model(backbone=build_pyramid(size_divisibility=32)).float()
    assert_exports(model, (96, 128), [(96, 128), (160, 96), (128, 224)])
