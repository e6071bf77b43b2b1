"""The flags of the command `jaxseg`, as `argparse` has them."""

import argparse
import pathlib
from typing import Any


def make_parser() -> argparse.ArgumentParser:
    """Every command with its flags; `command` and, where it has several, `job` name it."""
    parser = argparse.ArgumentParser(prog="jaxseg", description="Instance segmentation in JAX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    path = pathlib.Path

    demo = commands.add_parser("demo", help="train, evaluate and draw on embedded data")
    demo.add_argument(
        "--out",
        type=path,
        default=path("demo-out"),
        metavar="DIR",
        help="folder for results (default: %(default)s)",
    )

    demo.add_argument(
        "--model",
        choices=("mask_rcnn", "solov2"),
        default="mask_rcnn",
        help="what to train (default: %(default)s)",
    )

    train = commands.add_parser(
        "train",
        help="train an experiment; goes on by itself if interrupted",
        usage="jaxseg train EXPERIMENT --workdir DIR [--field value ...]",
        epilog="Any field of the experiment can be given as a flag: --train.steps 100 "
        "--data.source.path DIR --model.backbone.depth 18. The experiment holds the defaults; "
        "an unknown field is an error.",
    )
    train.add_argument(
        "experiment", type=path, metavar="EXPERIMENT", help="a Python file that defines one"
    )
    train.add_argument(
        "--workdir", type=path, metavar="DIR", help="folder for checkpoints and curves (required)"
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="print parameters, cost, memory, schedule and data, and train nothing",
    )
    _add_hosts(train)

    evaluate = commands.add_parser("eval", help="box and mask AP of a checkpoint")
    evaluate.add_argument("workdir", type=path, metavar="DIR", help="workdir of a training")
    evaluate.add_argument(
        "--data",
        type=path,
        metavar="DIR",
        help="COCO folder or TFDS set (default: the data of the training)",
    )
    evaluate.add_argument(
        "--split", default="val", metavar="NAME", help="split of the data (default: %(default)s)"
    )
    evaluate.add_argument(
        "--step", type=int, metavar="N", help="step of the checkpoint (default: the newest)"
    )
    evaluate.add_argument(
        "--no-ema",
        action="store_true",
        help="the parameters as they are, not their average",
    )
    _add_hosts(evaluate)
    evaluate.add_argument(
        "--out", type=path, metavar="DIR", help="folder for results (default: DIR/eval)"
    )

    predict = commands.add_parser("predict", help="overlays and COCO results for images")
    predict.add_argument("workdir", type=path, metavar="DIR", help="workdir of a training")
    predict.add_argument("images", type=path, nargs="+", metavar="IMAGE", help="image files")
    predict.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="folder for results (required)"
    )
    predict.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="least score of an instance that is drawn (default: %(default)s)",
    )
    _add_weights(commands)
    _add_data(commands)
    return parser


def _add_hosts(command: argparse.ArgumentParser) -> None:
    """For runs over several hosts, with the same command on each."""
    command.add_argument(
        "--distributed", action="store_true", help="several hosts, as SLURM or a TPU pod names them"
    )
    command.add_argument(
        "--coordinator-address",
        metavar="ADDRESS:PORT",
        help="several hosts, of which host 0 listens here",
    )
    command.add_argument("--num-processes", type=int, metavar="N", help="the number of hosts")
    command.add_argument("--process-id", type=int, metavar="I", help="this host's number, from 0")


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="the health of a data set, and TFDS sets")
    jobs = data.add_subparsers(dest="job", required=True, metavar="JOB")
    _add_check(jobs)
    _add_build(jobs)


def _add_check(jobs: Any) -> None:
    path = pathlib.Path
    check = jobs.add_parser(
        "check",
        help="what is in a COCO folder or TFDS set, and what training would lose of it",
        epilog="The exit status is 0 if training loses and distorts nothing but what is dropped.",
    )
    check.add_argument("path", type=path, metavar="DIR", help="the folder")
    check.add_argument("--split", metavar="NAME", help="split of the data (default: all)")
    check.add_argument(
        "--max-objects",
        type=int,
        default=100,
        metavar="N",
        help="objects of an image that the training has room for (default: %(default)s)",
    )
    check.add_argument(
        "--bucket",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="tell what becomes smaller than a pixel there",
    )
    check.add_argument(
        "--ignore-issues",
        nargs="+",
        default=(),
        metavar="KIND",
        help="kinds of defects that the training leaves out",
    )
    check.add_argument(
        "--out", type=path, metavar="FILE", help="list all defects in a file, as JSON"
    )


def _add_build(jobs: Any) -> None:
    path = pathlib.Path
    builder = jobs.add_parser(
        "build", help="a COCO-format folder as a TFDS set; goes on by itself if interrupted"
    )
    builder.add_argument("folder", type=path, metavar="FOLDER", help="the COCO-format folder")
    builder.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="the new set (required)"
    )
    builder.add_argument(
        "--splits", nargs="+", default=(), metavar="NAME", help="its splits (default: all)"
    )
    builder.add_argument(
        "--ignore-issues",
        nargs="+",
        default=(),
        metavar="KIND",
        help="kinds of defects that are left out",
    )


def _add_weights(commands: Any) -> None:
    path = pathlib.Path
    weights = commands.add_parser("weights", help="published checkpoints in and out")
    weights_jobs = weights.add_subparsers(dest="job", required=True, metavar="JOB")
    importer = weights_jobs.add_parser(
        "import",
        help="a published model as a workdir, or a ResNet for train --pretrained",
        usage="jaxseg weights import FILE --model NAME --out DIR [--field value ...]",
        epilog="Names: maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2 (torchvision); "
        "detectron2_mask_rcnn_r50_fpn, _r101_fpn, _x101_32x8d_fpn; mmdet_mask_rcnn_r50_fpn. "
        "mmdet_solov2_r50_fpn, _r101_fpn, mmdet_solov2_light_r18_fpn, _r34_fpn, _r50_fpn; "
        "solo_solov2_r50_fpn (the authors' own); adelaidet_solov2_r50_fpn, _r101_fpn. "
        "Fields change the architecture: --model.num-classes 3. ResNets of torchvision and timm: "
        "resnet18, resnet34, resnet50, resnet101, resnext50_32x4d, resnext101_32x8d.",
    )
    importer.add_argument(
        "file", type=path, metavar="FILE", help=".pth, .pkl, .safetensors or .npz"
    )
    importer.add_argument("--model", required=True, metavar="NAME", help="see below (required)")
    importer.add_argument(
        "--out",
        type=path,
        required=True,
        metavar="PATH",
        help="the new workdir or, for a ResNet, .safetensors file (required)",
    )
    exporter = weights_jobs.add_parser(
        "export", help="a checkpoint as .safetensors under torchvision's names"
    )
    exporter.add_argument("workdir", type=path, metavar="DIR", help="workdir of a training")
    exporter.add_argument(
        "--out", type=path, required=True, metavar="FILE", help="the new file (required)"
    )
