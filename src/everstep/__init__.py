"""Everstep trains ControlNets and never loses a step."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everstep.keeping.kept import Kept
    from everstep.keeping.loop import keep

__version__ = "0.1.0"
__all__ = ["Kept", "__version__", "keep"]


def __getattr__(name: str) -> Any:
    """`everstep.keep`, found when it is asked for: it loads PyTorch, and most of the program does not."""
    if name in ("keep", "Kept"):
        from everstep.keeping import kept, loop

        return loop.keep if name == "keep" else kept.Kept
    raise AttributeError(name)
