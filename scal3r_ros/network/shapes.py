"""Array annotations of this room. Without jaxtyping they are comments: on a machine that has only
torch, einops, numpy and safetensors the network still runs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
else:
    try:
        from jaxtyping import Float, Int, UInt8
    except ImportError:

        class Float:
            """Float[Tensor, "rows columns"] is just Tensor."""

            def __class_getitem__(cls, annotation):
                return annotation[0]

        Int = UInt8 = Float

__all__ = ["Float", "Int", "UInt8"]
