"""Curves of a training: what goes into which panel, and a picture of them."""

from io import BytesIO

from PIL import Image

from segcore.engine.curves import curves_by_panel, draw_curves

LINES = [
    {"iteration": 19, "total_loss": 4.0, "loss_ce": 1.0, "loss_ce_0": 2.0, "lr": 0.1, "time": 1.0},
    {
        "iteration": 39,
        **{"total_loss": 3.0, "d0.loss_ce": 0.5, "loss_ce": 1.5, "lr": 0.1, "grad_norm": 1.0},
        **{"panoptic_seg/PQ": 40.0, "segm/AP": 30.0, "segm/AP-disc": 20.0},
    },
]


def test_panels():
    assert curves_by_panel(LINES) == {
        "losses": {"total_loss": [(19, 4.0), (39, 3.0)], "loss_ce": [(19, 3.0), (39, 2.0)]},
        "learning rate": {"lr": [(19, 0.1), (39, 0.1)]},
        "panoptic_seg": {"PQ": [(39, 40.0)]},
        "segm": {"AP": [(39, 30.0)]},
    }


def test_picture_grows_with_the_panels():
    sizes = [Image.open(BytesIO(draw_curves(lines))).size for lines in (LINES[:1], LINES)]
    assert sizes[0][0] == sizes[1][0] and 2 * sizes[0][1] == sizes[1][1]


def test_nothing_to_draw():
    assert Image.open(BytesIO(draw_curves([]))).format == "PNG"
