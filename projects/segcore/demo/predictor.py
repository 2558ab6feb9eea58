"""A predictor with the tokens and the attention of a model."""

from collections.abc import Sequence

import numpy as np
import torch

from segcore.errors import UserError
from segcore.inference import QueryAttention
from segcore.predictor import Predictor


class DemoError(UserError, ValueError):
    """A request that this model cannot serve."""


class PhotoPredictor(Predictor):
    """:class:`segcore.Predictor` with the tokens and the attention that ``demo.py`` draws."""

    def require_focus(self) -> None:
        """Check that the model has a :meth:`focus`.

        Raises:
            DemoError: the backbone keeps all of an image.
        """
        backbone = self.model.backbone
        if not hasattr(backbone, "focus"):
            raise DemoError(
                "focus: expected a model whose backbone chooses tokens (with a method focus), "
                f"got {type(backbone).__name__}"
            )

    def focus(self, photo: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return the positions on a photo of the tokens of each stage of the backbone.

        Args:
            photo: (H, W, 3) uint8, BGR, of any size.

        Returns:
            On the CPU, of each stage the positions (N, 2) of its tokens, as (x, y) in pixels of the
            photo, and their importance (N,) in (0, 1), None if the stage selects none. Includes
            tokens of the padding, outside of the photo.

        Raises:
            DemoError: the backbone keeps all of an image.
        """
        self.require_focus()
        inputs = self.inputs(photo)
        height, width = inputs["image"].shape[-2:]
        scale = torch.tensor([photo.shape[1] / width, photo.shape[0] / height])
        with self._lock, torch.no_grad():
            images = self.model.preprocess_images([inputs]).tensor
            stages = self.model.backbone.focus(images)
        return [
            (positions[0].cpu() * scale, None if importance is None else importance[0].cpu())
            for positions, importance in stages
        ]

    def require_attention(self, queries: Sequence[int] = ()) -> None:
        """Check that the model has an :meth:`attention` for these queries.

        Raises:
            DemoError: the model does not tell, or has no query of such a number.
        """
        model = self.model
        if not hasattr(model, "attention"):
            raise DemoError(
                "attention: expected a model that shows that of its mask decoders (with a method "
                f"attention), got {type(model).__name__}"
            )
        outside = [query for query in queries if not 0 <= query < model.num_queries]
        if outside:
            raise DemoError(
                f"attention: expected indices of queries in [0, {model.num_queries}), got {outside}"
            )

    def attention(self, photo: np.ndarray, queries: Sequence[int] = ()) -> list[QueryAttention]:
        """Return the attention of queries of the mask decoders on a photo, on the CPU.

        Args:
            photo: (H, W, 3) uint8, BGR, of any size.
            queries: indices of queries; if empty, those of the best segments.

        Raises:
            DemoError: see :meth:`require_attention`.
        """
        self.require_attention(queries)
        return self.model.attention(self.inputs(photo), queries)
