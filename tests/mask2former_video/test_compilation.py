import pytest

import segcore
from segcore.errors import ConfigError


def test_refused(video_model):
    with pytest.raises(ConfigError, match=r"VideoMaskFormer cannot be compiled: .* frames"):
        segcore.compile(video_model)
    assert "network" not in vars(video_model)
