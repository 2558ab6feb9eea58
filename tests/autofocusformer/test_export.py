from export_checks import assert_exports


def test_export(build_model_on_tokens):
    """Of images with more tokens than a neighborhood has, whatever part of a cluster is empty."""
    model = build_model_on_tokens(depths=(1, 1, 1, 1))
    head = model.sem_seg_head
    for layers in (
        head.pixel_decoder.transformer.encoder.layers,
        head.predictor.transformer_cross_attention_layers,
        head.predictor.transformer_self_attention_layers,
        head.predictor.transformer_ffn_layers,
    ):
        del layers[1:]
    assert_exports(model, (160, 224), [(128, 192)])
