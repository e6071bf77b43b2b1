"""`jaxseg predict`: overlays and COCO results of image files."""

import json

import cv2
import numpy as np

from jaxseg.commands.cli import main


def test_predict_draws_and_writes_coco_results(workdir, tmp_path, capsys):
    paths = []
    for number, size in enumerate([(64, 64), (90, 40)]):
        paths.append(str(tmp_path / f"image{number}.png"))
        cv2.imwrite(paths[-1], np.full((*size, 3), 120, np.uint8))
    assert main(["predict", str(workdir), *paths, "--out", str(tmp_path / "out")]) == 0
    assert "image1.png" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {r["file_name"] for r in results} == set(paths)
    for result in results:
        size = [64, 64] if result["image_id"] == 1 else [90, 40]
        assert result["segmentation"]["size"] == size
