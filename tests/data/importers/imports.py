"""Import one export as one split, or fail."""

import json

from tests.data.importers.test_formats import run


def import_one(folder, out, capsys, *arguments):
    """Import as one split; return the annotations and what was printed."""
    assert run(folder, out, "--val-fraction", "0", *arguments) == 0, capsys.readouterr().err
    content = json.loads((out / "train.json").read_text())
    return content["annotations"], capsys.readouterr().out


def fails(folder, tmp_path, capsys, *arguments):
    assert run(folder, tmp_path / "out", "--val-fraction", "0", *arguments) == 1
    return capsys.readouterr().err
