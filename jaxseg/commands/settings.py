"""Compare the records of runs, and of the processes of a run, field by field.

A record is nested JSON: an experiment, what identifies its data, and the flags of a command.
"""

from collections.abc import Collection, Sequence
from typing import Any

PROCESSES_MAY_DIFFER = ("data.source.path", "data.num_threads", "data.num_workers", "pretrained")
"""Fields that may differ between the processes of a run: where each finds the same data and
weights, and how it prepares its batches."""


def check_processes_agree(records: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError unless all processes do the same work on the same data.

    The processes would otherwise train different models, or wait for each other forever. `records`
    has one of each process.
    """
    first, *others = map(flatten, records)
    for process, record in enumerate(others, start=1):
        changed = changed_fields(first, record, PROCESSES_MAY_DIFFER)
        if changed:
            raise ValueError(
                f"process {process} was started with other settings or data than process 0: "
                f"{', '.join(changed)}. Run the same command on all"
            )


def changed_fields(
    before: dict[str, Any], now: dict[str, Any], allowed: Collection[str]
) -> list[str]:
    """Return "field (before -> now)" for each field of flat records that is not in `allowed`."""
    changed = []
    for key in sorted(before.keys() | now.keys()):
        field = key.removeprefix("experiment.")
        if before.get(key) != now.get(key) and field not in allowed:
            changed.append(f"{field} ({before.get(key)} -> {now.get(key)})")
    return changed


def flatten(record: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested JSON as `{"train.optimizer.name": "sgd", ...}`."""
    if isinstance(record, dict):
        items = record.items()
        return {k: v for name, item in items for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): record}
