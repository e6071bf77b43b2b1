"""`jaxseg predict`: instances in images and videos."""

import itertools
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxseg import data
from jaxseg.commands.prediction_files import PredictionFiles
from jaxseg.commands.video import VIDEO_SUFFIXES, Video, VideoWriter, open_video, read_frames
from jaxseg.detector import Detector, load, widen_limits
from jaxseg.files import check_output_folder, prepare_output_folder
from jaxseg.instances import Instances
from jaxseg.terminal import progress_bar
from jaxseg.visualize import save_picture

_BATCHES = 4
"""Batches of frames of a video that are in memory together."""


def predict(
    workdir: pathlib.Path,
    inputs: Sequence[pathlib.Path],
    out: pathlib.Path,
    threshold: float,
    *,
    masks: bool = False,
    every: int = 1,
    batch_size: int = 1,
    allow_modules: Collection[str] = (),
) -> None:
    """Predict on images and videos; write overlays, COCO results and a COCO dataset to `out`.

    A panoptic model's overlays show its panoptic maps, which are written as well.

    An image's id is its position in the list, counted from 1; frames of videos are counted on after
    the images. Each result also holds its file's name, and its frame's number from 0. Images are
    decoded batch by batch. Overlays are written as they are predicted, and so are the results
    (see `PredictionFiles`), which remain if an image fails or the process is stopped. A run that
    completes removes what earlier ones wrote there for other inputs.

    Args:
        workdir: the workdir of a run, whose newest checkpoint is used, or an exported file.
        inputs: image files, folders, glob patterns, videos.
        out: the folder for results.
        threshold: lowest score of the instances that are drawn, and in the dataset and masks; of
            all results, if it is below the model's own. Panoptic maps do not depend on it.
        masks: write label PNGs.
        every: predict on every `every`-th frame of a video.
        batch_size: images that each device predicts on at once.
        allow_modules: modules whose config classes the checkpoint may name, besides jaxseg's own.
    """
    for name, value in (("every", every), ("batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold} must be from 0 to 1")
    check_output_folder(out)
    images, videos = find_inputs(inputs)
    source = data.ImageFiles(images)
    detector = load(workdir, allow_modules=allow_modules)
    prepare_output_folder(out)
    trained = detector.trained
    with PredictionFiles(
        out, trained.categories, trained.experiment.model.num_classes, masks=masks
    ) as files:
        run = _Run(detector, files, out, threshold, batch_size)
        run.predict_images(source)
        next_id = len(images) + 1
        for video in videos:
            next_id = run.predict_video(video, every, next_id)
        files.finish([*images, *(video.path for video in videos)])


def find_inputs(
    inputs: Sequence[pathlib.Path],
) -> tuple[list[pathlib.Path], list[Video]]:
    """Return the image files and the videos of files, folders and glob patterns.

    Raises FileNotFoundError or ValueError for what does not exist, is empty or is no video.
    """
    suffixes = data.IMAGE_SUFFIXES | VIDEO_SUFFIXES
    paths = [file for path in inputs for file in data.expand_path(path, suffixes)]
    images = [path for path in paths if path.suffix.lower() not in VIDEO_SUFFIXES]
    videos = [open_video(path) for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    return images, videos


class _Run(NamedTuple):
    """What all images of a command share."""

    detector: Detector
    files: PredictionFiles
    out: pathlib.Path
    threshold: float
    batch_size: int

    def find(self, source: data.ImageFiles) -> Iterator[Instances]:
        """Yield each image's instances, down to the lower of the model's threshold and ours."""
        own = self.detector.trained.experiment.model
        is_lower = widen_limits(own, self.threshold, None) != own
        return self.detector.predict_each(
            source, threshold=self.threshold if is_lower else None, batch_size=self.batch_size
        )

    def certain(self, found: Instances) -> Instances:
        """Return the instances that are drawn."""
        return found[found.scores >= self.threshold]

    def draw(self, certain: Instances) -> np.ndarray:
        """Return the picture (uint8 RGB) of an image: a panoptic model's map, else instances."""
        return certain.draw() if certain.panoptic is None else certain.draw_panoptic()

    def predict_images(self, source: data.ImageFiles) -> None:
        """Predict on image files, and print a line for each."""
        predictions = self.find(source)
        with progress_bar("images") as show_progress:
            for done, found in enumerate(predictions, start=1):
                certain, stem = self.certain(found), _stem(found.image_id, found.file)
                overlay = self.out / f"{stem}.png"
                self.files.written.add(overlay)
                save_picture(overlay, self.draw(certain))
                self.files.add(found, certain, stem, {"file_name": str(found.file)})
                self._report(str(found.file), len(certain))
                show_progress(done, len(source))

    def predict_video(self, video: Video, every: int, first_id: int) -> int:
        """Predict on the frames of a video, write its overlay, and return the next free id."""
        stem, total, next_id = _stem(first_id, video.path), 0, first_id
        frames = read_frames(video, every)
        chunk = _BATCHES * self.batch_size * jax.local_device_count()
        with VideoWriter(self.out / stem, video.frames_per_second / every) as writer:
            while some := list(itertools.islice(frames, chunk)):
                source = data.ImageFiles([frame for _, frame in some], next_id)
                for found in self.find(source):
                    number = some[found.image_id - next_id][0]
                    certain = self.certain(found)
                    writer.write(self.draw(certain))
                    reference = {"file_name": str(video.path), "frame": number}
                    self.files.add(found, certain, f"{stem}_frame{number:06}", reference)
                    total += len(certain)
                next_id += len(some)
        if writer.path is not None:
            self.files.written.add(writer.path)
        self._report(f"{video.path}: {next_id - first_id} frames", total)
        return next_id

    def _report(self, what: str, count: int) -> None:
        print(f"{what}: {count} instances with a score of at least {self.threshold}")


def _stem(image_id: int, path: pathlib.Path | None) -> str:
    """Return the name of an image's files without their ending, no longer than disks allow."""
    assert path is not None
    stem = os.fsdecode(os.fsencode(path.stem)[:200])
    return f"{image_id:03}_{stem}"
