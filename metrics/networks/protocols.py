"""What metrics and guides ask of a network, whichever profile it comes from (`concord.data.networks.Networks.get`).

Images are float32 (B, 3, H, W) RGB in [0, 1] on the networks' device. Methods marked *open* let gradients through to
the images; the others are for scoring. A status is 'ok', or why there is no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from concord.metrics.face.square import Square

NO_FACE = "no face found"


@runtime_checkable
class ParserGuide(Protocol):
    """A parser that guides: 19 classes in CelebAMask-HQ's order."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, 19, h, w), of the parser's own size; open."""
        ...


@runtime_checkable
class ParserLogits(Protocol):
    """A parser whose logits are compared."""

    def parse(self, images: Tensor) -> Tensor:
        """Logits (B, 19, h, w), of the parser's own size."""
        ...


@runtime_checkable
class ReferenceLogits(Protocol):
    """A parser that prepares the pictures that images are compared with in another way than the images."""

    def parse_reference(self, images: Tensor) -> Tensor:
        """Logits (B, 19, h, w), of the parser's own size."""
        ...


@runtime_checkable
class Parser(Protocol):
    """A parser that says classes at the images' size."""

    def labels(self, images: Tensor) -> Tensor:
        """Classes int64 (B, H, W)."""
        ...


@runtime_checkable
class TextImage(Protocol):
    """One space for images and captions."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (B, E)."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, E)."""
        ...


@runtime_checkable
class TextImageFeatures(Protocol):
    """The same before the vectors are brought to length 1, as FreeDoM's text distance takes them."""

    def image_features(self, images: Tensor) -> Tensor:
        """(B, E)."""
        ...

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(B, E)."""
        ...


@runtime_checkable
class TokenFeatures(Protocol):
    """An image encoder whose tokens are compared, as FreeDoM's style distance does. size: of the images it looks at."""

    size: int

    def style_tokens(self, images: Tensor) -> Tensor:
        """(B, N, C) of its third block, without the class token; open."""
        ...


@runtime_checkable
class TextImageGuide(Protocol):
    """A text-image network that guides."""

    def guide_features(self, images: Tensor) -> Tensor:
        """Unnormalised (B, E); open."""
        ...

    def block_features(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Features (B, C, h, w) behind the named blocks, from 1, of the image encoder; open."""
        ...

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Unnormalised (B, E)."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (B, E)."""
        ...


@runtime_checkable
class Identity(Protocol):
    """Who it is."""

    def embed_faces(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """Unit vectors (B, E), with a status each; a vector without a face means nothing."""
        ...


@runtime_checkable
class IdentityGuide(Identity, Protocol):
    """An identity network that guides."""

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors (B, E); open."""
        ...


FREEDOM_WINDOW = (35, 223, 32, 220)
"""Top, bottom, left and right of FreeDoM's window of the image at 256 x 256."""


@runtime_checkable
class WindowIdentityGuide(IdentityGuide, Protocol):
    """One that looks at a window of the image that it is told, not for the face."""

    def embed_window(self, images: Tensor, window: tuple[int, int, int, int]) -> Tensor:
        """Unit vectors (B, E); open. window: top, bottom, left and right at 256 x 256."""
        ...


@runtime_checkable
class Landmarks(Protocol):
    """The 68 points of iBUG's order."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, list[str]]:
        """(B, 68, 2), x and y in pixels, with a status each."""
        ...


@runtime_checkable
class LandmarkVectors(Protocol):
    """The 68 points inside a square that is known, as FreeDoM's landmark distance takes them."""

    def landmark_vectors(self, images: Tensor, squares: Sequence[Square]) -> tuple[Tensor, list[str]]:
        """(B, 136), shares of each image's square, with a status each."""
        ...


@runtime_checkable
class LandmarkGuide(Protocol):
    """A landmark network that guides."""

    def landmark_residual(self, images: Tensor, points: Tensor, squares: Sequence[Square]) -> Tensor:
        """(B, ...): found less wanted points (B, 68, 2), as a share of the image's side or of the square's; open."""
        ...


@runtime_checkable
class Features(Protocol):
    """Features for the set metrics."""

    def features(self, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        """float32 (B, D) by kind, one pass for all kinds of one protocol."""
        ...


@runtime_checkable
class StyleFeatures(Protocol):
    """Activations that style and content are compared by."""

    def style_features(self, images: Tensor) -> list[Tensor]:
        """(B, C, h, w) of several layers, from shallow to deep; open."""
        ...


@runtime_checkable
class PerceptualFeatures(Protocol):
    """A distance in LPIPS's form."""

    def perceptual_distance(self, images: Tensor, originals: Tensor) -> Tensor:
        """(B,) in [0, 4]; open."""
        ...


@runtime_checkable
class PairDistance(Protocol):
    """A network that is a distance of two images."""

    def __call__(self, images: Tensor, originals: Tensor) -> Tensor:
        """(B,)."""
        ...


@runtime_checkable
class Activations(Protocol):
    """A network whose layers are compared."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, C, h, w) of several layers."""
        ...
