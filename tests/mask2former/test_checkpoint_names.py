import torch

from mask2former.checkpoint_names import rename_official

HEAD = "sem_seg_head"


def test_published_file():
    names = [
        f"{HEAD}.predictor.static_query.weight",
        f"{HEAD}.predictor.query_embed.weight",
        f"{HEAD}.pixel_decoder.mask_features.weight",
        "backbone.stem.conv1.weight",
        "criterion.empty_weight",
    ]
    assert rename_official(names) == {
        f"{HEAD}.predictor.static_query.weight": f"{HEAD}.predictor.query_feat.weight"
    }


def test_version_1_layout():
    assert rename_official([f"{HEAD}.layer_1.weight", f"{HEAD}.predictor.class_embed.bias"]) == {
        f"{HEAD}.layer_1.weight": f"{HEAD}.pixel_decoder.layer_1.weight"
    }


def test_version_1_names_in_a_head():
    assert rename_official(["layer_1.weight", "predictor.bias", "pixel_decoder.x"], head="") == {
        "layer_1.weight": "pixel_decoder.layer_1.weight"
    }


def test_any_layout_loads_without_version_metadata(build_small_model):
    """The trap: names of today without metadata must not become pixel_decoder.pixel_decoder."""
    source, target = build_small_model(), build_small_model()
    today = dict(source.state_dict())
    published = {name.replace("query_feat", "static_query"): v for name, v in today.items()}
    version_1 = {
        name.replace(f"{HEAD}.pixel_decoder.", f"{HEAD}."): v for name, v in published.items()
    }
    for state_dict in (today, published, version_1):
        names = set(state_dict)
        for parameter in target.parameters():
            torch.nn.init.constant_(parameter, 7.0)
        target.load_state_dict(state_dict)  # strict
        for name, value in target.state_dict().items():
            assert torch.equal(value, today[name]), name
        assert set(state_dict) == names  # the caller's own is left alone


def test_loads_inside_of_another_module(build_small_model):
    wrapper = torch.nn.ModuleDict({"model": build_small_model()})
    state_dict = {
        name.replace("query_feat", "static_query"): value
        for name, value in wrapper.state_dict().items()
    }
    wrapper.load_state_dict(state_dict)
