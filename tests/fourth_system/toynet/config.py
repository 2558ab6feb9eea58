"""Keys of the system, and what their values may be."""

from detectron2.config import CfgNode

from segcore.config.rules import add_rules, boolean, integer


def add_toynet_config(cfg: CfgNode) -> None:
    """Add ``MODEL.TOYNET``, in place."""
    cfg.MODEL.TOYNET = toynet = CfgNode()
    toynet.DIM = 8
    # The results wanted, which choose the evaluators.
    toynet.TEST = CfgNode({"SEMANTIC_ON": True, "INSTANCE_ON": False, "PANOPTIC_ON": True})


switches = ("SEMANTIC_ON", "INSTANCE_ON", "PANOPTIC_ON")
add_rules(
    "MODEL.TOYNET",
    {"DIM": integer(1, 1024), **{f"TEST.{switch}": boolean() for switch in switches}},
)
