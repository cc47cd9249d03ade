"""Everstep trains ControlNets and never loses a step."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everstep.keeping.kept import Kept
    from everstep.keeping.loop import keep
    from everstep.watching.notebook import watch

__version__ = "0.1.0"
__all__ = ["Kept", "__version__", "keep", "watch"]


def __getattr__(name: str) -> Any:
    """What is found when it is asked for: `keep` loads PyTorch, and most of the program does not."""
    if name in ("keep", "Kept"):
        from everstep.keeping import kept, loop

        return loop.keep if name == "keep" else kept.Kept
    if name == "watch":
        from everstep.watching.notebook import watch

        return watch
    raise AttributeError(name)
