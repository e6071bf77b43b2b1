"""Compare the settings of runs, and of the processes of a run, field by field.

Settings are nested JSON: an experiment, the fingerprints of its data, and the flags of a command.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jaxseg.data import Source

PROCESSES_MAY_DIFFER = (
    "data.source.path",
    "data.source.images",
    "data.source.semantic_maps",
    "data.num_threads",
    "data.num_workers",
    "pretrained",
    "init_from",
)
"""Fields that may differ between the processes of a run: where each finds the same data and
weights, and how it prepares its batches."""
DATA_NOTE = " (another `fingerprint` means other images or annotations)"


def check_processes_agree(settings: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError unless all processes have the same settings and data.

    The processes would otherwise train different models, or wait for each other forever.
    `settings` has those of each process.
    """
    first, *others = map(flatten, settings)
    for process, other in enumerate(others, start=1):
        changed = changed_fields(first, other, PROCESSES_MAY_DIFFER)
        if changed:
            raise ValueError(
                f"process {process} was started with other settings or data than process 0: "
                f"{', '.join(map(str, changed))}{DATA_NOTE}. Run the same command on all"
            )


def split_identity(source: Source) -> dict[str, Any]:
    """Return what processes must share of a split that they evaluate on."""
    return {"fingerprint": source.fingerprint, "categories": list(map(list, source.categories))}


class Change(NamedTuple):
    """A field of settings, and its two values."""

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} ({self.before} -> {self.now})"


def changed_fields(
    before: dict[str, Any], now: dict[str, Any], allowed: Collection[str]
) -> list[Change]:
    """Return the fields of flat settings that differ and are not in `allowed`."""
    changed = []
    for key in sorted(before.keys() | now.keys()):
        field = key.removeprefix("experiment.")
        if before.get(key) != now.get(key) and field not in allowed:
            changed.append(Change(field, before.get(key), now.get(key)))
    return changed


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON as `{"train.optimizer.name": "sgd", ...}`."""
    if isinstance(settings, dict):
        items = settings.items()
        return {k: v for name, item in items for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): settings}
