"""jaxseg: instance segmentation in JAX, as pure functions.

    import jaxseg

    detector = jaxseg.load("runs/nuclei")
    instances = detector.predict("photo.jpg")
    print(instances.names, instances.scores, instances.boxes, instances.masks)

The import alone is fast: JAX and the models are imported by the first use of `load`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxseg.detector import load as load

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """Return `load`, imported at its first use."""
    if name != "load":
        raise AttributeError(f"module 'jaxseg' has no attribute {name!r}")
    from jaxseg.detector import load

    globals()[name] = load
    return load


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
