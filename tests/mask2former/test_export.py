from export_checks import assert_exports


def test_export(build_small_model):
    assert_exports(build_small_model(), (128, 192), [(96, 224)])
