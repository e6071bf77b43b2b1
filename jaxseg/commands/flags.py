"""The commands of `jaxseg` and their flags: one frozen dataclass for each command.

A docstring here is the text of `--help`. Nothing here imports JAX, which takes seconds.
"""

import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

Folder = Annotated[pathlib.Path, arg(metavar="DIR")]
OptionalFolder = Annotated[pathlib.Path | None, arg(metavar="DIR", help_behavior_hint="")]
Workdir = Annotated[Positional[pathlib.Path], arg(metavar="WORKDIR", help_behavior_hint="")]
Switch = Annotated[bool, arg(help_behavior_hint="")]
IssueKinds = Annotated[tuple[str, ...], arg(metavar="KIND...", help_behavior_hint="")]
ConfigModules = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], arg(metavar="NAME", help_behavior_hint="")
]


@dataclasses.dataclass(frozen=True)
class Processes:
    """The flags of a command that runs as several processes, with the same command on each."""

    distributed: Switch = False
    """Join the other processes of the SLURM job or TPU pod."""
    coordinator_address: Annotated[
        str | None, arg(metavar="ADDRESS:PORT", help_behavior_hint="")
    ] = None
    """Join the other processes through this address of process 0."""
    num_processes: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Number of processes."""
    process_id: Annotated[int | None, arg(metavar="I", help_behavior_hint="")] = None
    """Number of this process, from 0."""

    @property
    def several(self) -> bool:
        """Return whether the run has several processes."""
        return self.distributed or self.coordinator_address is not None

    def problem(self) -> str:
        """Return what is wrong with the flags, "" if nothing is."""
        number, index, address = self.num_processes, self.process_id, self.coordinator_address
        if not self.several and (number, index) != (None, None):
            return (
                "--num-processes and --process-id need --coordinator-address ADDRESS:PORT, or "
                "--distributed"
            )
        if address is not None and not address.rpartition(":")[2].isdecimal():
            return f"--coordinator-address {address} must be ADDRESS:PORT"
        if address is not None and not self.distributed and None in (number, index):
            return "--coordinator-address needs --num-processes and --process-id, or --distributed"
        if number is not None and number < 1:
            return f"--num-processes {number} must be at least 1"
        if index is not None and (index < 0 or (number is not None and index >= number)):
            return f"--process-id {index} must be from 0 to --num-processes - 1"
        return ""


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train, evaluate and draw on generated images."""

    out: Folder = pathlib.Path("demo-out")
    """Folder for results."""
    model: Literal["mask_rcnn", "solov2"] = "mask_rcnn"
    """Model to train."""
    no_compilation_cache: Switch = False
    """Neither read nor keep compiled programs."""


@dataclasses.dataclass(frozen=True)
class Train:
    """Train an experiment, or resume its interrupted run.

    The experiment's fields are flags too: jaxseg train EXPERIMENT --help
    """

    experiment: Annotated[
        Positional[pathlib.Path], arg(metavar="EXPERIMENT", help_behavior_hint="")
    ]
    """Python file, or a name that jaxseg experiments lists."""
    data: Annotated[pathlib.Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """COCO folder or file, or TFDS dataset (default: the experiment's)."""
    workdir: OptionalFolder = None
    """Folder for checkpoints and curves (required)."""
    fork: Annotated[pathlib.Path | None, arg(metavar="WORKDIR", help_behavior_hint="")] = None
    """Workdir of another run, whose newest state a new run goes on from."""
    dry_run: Switch = False
    """Print size, cost, memory, schedule and data; train nothing."""
    no_compilation_cache: Switch = False
    """Neither read nor keep compiled programs."""
    processes: Annotated[Processes, arg(name="")] = Processes()


@dataclasses.dataclass(frozen=True)
class Eval:
    """Compute the COCO metrics of a checkpoint, and draw predictions."""

    workdir: Workdir
    """Workdir of a training."""
    data: OptionalFolder = None
    """COCO folder or TFDS dataset (default: the training's)."""
    split: Annotated[str, arg(metavar="SPLIT")] = "val"
    """Split of the data."""
    step: Annotated[int | None, arg(metavar="STEP", help_behavior_hint="")] = None
    """Step of the checkpoint (default: the newest)."""
    no_ema: Switch = False
    """Use the parameters themselves, not their EMA."""
    out: OptionalFolder = None
    """Folder for results (default: WORKDIR/eval)."""
    no_compilation_cache: Switch = False
    """Neither read nor keep compiled programs."""
    allow_module: ConfigModules = ()
    """Installed module of your own config classes; repeatable."""
    processes: Annotated[Processes, arg(name="")] = Processes()


@dataclasses.dataclass(frozen=True)
class Predict:
    """Draw the instances of images and videos; write COCO results and a dataset."""

    workdir: Workdir
    """Workdir of a training, or file of jaxseg weights export."""
    images: Annotated[
        Positional[tuple[pathlib.Path, ...]],
        arg(metavar="IMAGE...", help_behavior_hint=""),
    ]
    """Images, folders of images, patterns such as 'photos/**/*.jpg' in quotes, videos."""
    out: Folder
    """Folder for results."""
    threshold: Annotated[float, arg(metavar="SCORE")] = 0.5
    """Smallest score of an instance that is drawn and in the dataset and masks."""
    masks: Switch = False
    """Write a label PNG of 16 bits for each image, and a list of its instances."""
    every: Annotated[int, arg(metavar="N")] = 1
    """Predict on every N-th frame of a video."""
    batch_size: Annotated[int, arg(metavar="N")] = 1
    """Images that each device predicts on at once."""
    no_compilation_cache: Switch = False
    """Neither read nor keep compiled programs."""
    allow_module: ConfigModules = ()
    """Installed module of your own config classes; repeatable."""


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """The flags of a command that reads data as training does."""

    path: Annotated[Positional[pathlib.Path], arg(metavar="DIR", help_behavior_hint="")]
    """COCO folder or file, or TFDS dataset."""
    images: OptionalFolder = None
    """Folder of the images, if it is elsewhere."""
    allow_outside_files: Switch = False
    """Accept image files outside the image folder."""
    panoptic: Switch = False
    """Read panoptic annotations, not instances."""
    semantic_maps: OptionalFolder = None
    """Folder of semantic maps beside instances."""
    num_semantic_classes: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Number of classes of the semantic maps."""


@dataclasses.dataclass(frozen=True)
class DataCheck(DataFolder):
    """Print the statistics and issues of a dataset.

    The exit status is 1 if there are errors: training would refuse or lose data.
    """

    split: Annotated[str | None, arg(metavar="SPLIT", help_behavior_hint="")] = None
    """Split of the data (default: all)."""
    max_objects: Annotated[int, arg(metavar="N")] = 100
    """Objects an image that training keeps."""
    bucket: Annotated[tuple[int, int] | None, arg(metavar="H W", help_behavior_hint="")] = None
    """Count objects below a pixel at this size."""
    ignore_issues: IssueKinds = ()
    """Kinds of issues that training leaves out."""
    out: Annotated[pathlib.Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """File for all issues, one JSON object a line."""


@dataclasses.dataclass(frozen=True)
class DataShow(DataFolder):
    """Draw a page of samples, as they are annotated and as they reach the model.

    Sizes are those that data check proposes.
    """

    out: Annotated[pathlib.Path, arg(metavar="FILE")] = pathlib.Path("samples.png")
    """The picture, a PNG or JPEG."""
    split: Annotated[str, arg(metavar="SPLIT")] = "train"
    """Split of the data."""
    count: Annotated[int, arg(metavar="N")] = 6
    """Number of images, spread over the split."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the random changes."""


@dataclasses.dataclass(frozen=True)
class DataBuild:
    """Convert a COCO folder to a TFDS dataset, or resume an interrupted conversion."""

    folder: Annotated[Positional[pathlib.Path], arg(metavar="DIR", help_behavior_hint="")]
    """COCO folder or file."""
    out: Folder
    """Folder of the new dataset."""
    images: OptionalFolder = None
    """Folder of the images, if it is elsewhere."""
    splits: Annotated[
        tuple[str, ...], arg(metavar="SPLIT...", help_behavior_hint="(default: all)")
    ] = ()
    """Splits to convert."""
    ignore_issues: IssueKinds = ()
    """Kinds of issues that are left out."""
    allow_outside_files: Switch = False
    """Accept image files outside the image folder."""


@dataclasses.dataclass(frozen=True)
class DataImport:
    """Convert what an annotation tool exported to a COCO folder.

    Formats: coco (also Roboflow, CVAT, Label Studio), yolo, labelme, via, masks.
    """

    source: Annotated[Positional[pathlib.Path], arg(metavar="SRC", help_behavior_hint="")]
    """Exported folder or file."""
    out: Folder
    """The new folder, absent or empty."""
    format: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Format (default: detected)."""
    val_fraction: Annotated[float, arg(metavar="F")] = 0.2
    """Images for validation, if SRC has no splits."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed that chooses them."""
    images: OptionalFolder = None
    """Folder of the images, if SRC does not say it."""
    class_attribute: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Attribute with the class (via)."""
    allow_outside_files: Switch = False
    """Read files outside SRC that it names."""


def _published_names() -> Any:
    """Return the type of `--model`: the names of the models that can be imported."""
    from jaxseg import zoo

    return Literal[(*zoo.MODELS, *zoo.RESNETS)]


@dataclasses.dataclass(frozen=True)
class WeightsImport:
    """Convert published weights: a detector to a workdir, a ResNet to a file.

    The file of a ResNet is for `jaxseg train --pretrained`.

    The fields of a detector are flags too, such as --model.num-classes 3
    """

    file: Annotated[Positional[pathlib.Path], arg(metavar="FILE", help_behavior_hint="")]
    """Weights: .pth, .pkl, .safetensors or .npz."""
    out: Annotated[pathlib.Path, arg(metavar="PATH")]
    """The new workdir or, for a ResNet, .safetensors file."""
    model: Annotated[
        str | None, arg(constructor_factory=_published_names, help_behavior_hint="")
    ] = None
    """Name of the model; not needed for a file of jaxseg weights export."""
    allow_module: ConfigModules = ()
    """Installed module of your own config classes; repeatable."""


@dataclasses.dataclass(frozen=True)
class WeightsExport:
    """Convert a checkpoint to a .safetensors file.

    weights import, predict and jaxseg.load read it.
    """

    workdir: Workdir
    """Workdir of a training."""
    out: Annotated[pathlib.Path, arg(metavar="FILE")]
    """The new file."""
    names: Annotated[
        Literal["torchvision", "jaxseg"] | None,
        arg(constructor=Literal["torchvision", "jaxseg"], help_behavior_hint=""),
    ] = None
    """Names of the arrays (default: torchvision's where it has the model, else jaxseg's own)."""
    allow_module: ConfigModules = ()
    """Installed module of your own config classes; repeatable."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast this machine is, beside torchvision where it is installed.

    Groups: ops, predict, train, loader, evaluation, compile; scaling only if named.
    """

    groups: Annotated[Positional[tuple[str, ...]], arg(metavar="GROUP...", help_behavior_hint="")]
    """Groups of measurements."""
    models: Annotated[
        tuple[str, ...] | None,
        arg(metavar="NAME...", help_behavior_hint="(Mask R-CNN and SOLOv2, R50-FPN)"),
    ] = None
    """Names as for weights import."""
    size: Annotated[
        tuple[int, int] | None, arg(metavar="H W", help_behavior_hint="(default: 800 1088)")
    ] = None
    """Size of the images."""
    batch: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 1)")] = None
    """Images on one device."""
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, arg(help_behavior_hint="(default: float32)")
    ] = None
    """Dtype of the layers."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 10)")] = None
    """Most samples of a case."""
    seconds: Annotated[float | None, arg(metavar="S", help_behavior_hint="(default: 60)")] = None
    """Time after which a case takes no further samples."""
    data: OptionalFolder = None
    """COCO folder, for loader."""
    out: Annotated[pathlib.Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """JSON of all samples."""
    plot: Annotated[pathlib.Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Picture of the times, if matplotlib is installed."""
    small: Switch = False
    """Tiny models and sizes, to show that everything runs."""


@dataclasses.dataclass(frozen=True)
class Experiments:
    """List the experiments that come with jaxseg."""


@dataclasses.dataclass(frozen=True)
class Env:
    """Print versions, devices and settings, to paste into an issue."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print the script that completes jaxseg's commands and flags in a shell.

    For bash, add to ~/.bashrc: eval "$(jaxseg completion bash)"
    """

    shell: Annotated[
        Positional[Literal["bash", "zsh", "fish"]], arg(metavar="SHELL", help_behavior_hint="")
    ]
    """bash, zsh or fish."""
