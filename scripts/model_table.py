"""Write docs/models.md from the zoo's records, or measure their multiply-adds.

    python scripts/model_table.py > docs/models.md
    python scripts/model_table.py --measure      # compare each record's `gmacs` with XLA's count

Multiply-adds are half of the floating-point operations that XLA counts in the prediction of one
padded image of the record's first bucket, with all proposals, candidates and masks that fit.
Nothing is compiled.
"""

import sys

import jax
import jax.numpy as jnp

from jaxseg.zoo import MODELS, RESNETS, ZooModel

HEAD = """\
# Published models

AP (mask / box; one number: mask alone) and PQ, panoptic quality, are those on COCO val2017 that the
source states; they have not been measured with jaxseg. Given the same weights and pixels the
outputs equal the source's ([Reproduce a paper](reproduce.md)):
`tests/models/test_mask_rcnn_golden.py` compares every stage, loss and gradient with torchvision,
`test_solov2_golden.py`, `test_panoptic_fpn_golden.py`, `test_point_rend_golden.py`,
`test_cascade_rcnn_golden.py` and `test_htc_golden.py` with MMDetection. Parameters are counted as
the source counts them, but without the scales of frozen batch norms (those of most MMDetection
models are trained), and tested against these numbers. Multiply-adds are those of one padded image
of 800x1344 pixels (448x768 for light models), with all proposals, candidates and masks that fit.

The configs use mask targets from box crops, whose cost suits long trainings. The sources pool
masks of the whole image: `MaskHeadConfig(mask_targets="binary")` (Detectron2, MMDetection) or
`"soft"` (torchvision) computes exactly theirs; so does `CoarseMaskConfig(mask_targets="binary")` of
PointRend.

Deformable convolutions are not supported, so SOLOv2's published DCN variants are not listed.

| `--model` | AP, mask / box; PQ | checkpoint | parameters | multiply-adds, 10^9 | experiment |
| --- | --- | --- | --- | --- | --- |
"""

TAIL = """
## Differences from the sources

The models differ from their sources in the following. All else is equal to float32's rounding,
which moves single elements of a gradient by up to 2 % in the R50 SOLOv2, where a neuron near zero
falls on the other side of a ReLU.

- Random draws (the anchors and RoIs that are sampled, augmentation) depend on the seed, the step
  and the image, in any order of the objects; in the sources on the state of a generator. No
  difference where everything is sampled (`test_losses_of_everything_sampled`). Two objects of an
  image with the same box share their draws.
- Mask targets are cut from box crops by default (`mask_targets="box_crop"`). `"binary"`
  (Detectron2, MMDetection) and `"soft"` (torchvision) give the source's targets, from masks of the
  whole image.
- NMS of detections receives the best `pre_nms_topk` pairs of box and class, in torchvision all
  above the score threshold. No difference unless NMS keeps fewer than `detections_per_image` of
  them.
- SOLOv2's cells in the regions of two objects go to the smaller object by default, in any order
  of the objects, and to the last annotation in MMDetection: 3.4 % of the class loss on a case
  with 10 such cells. The configs above have MMDetection's rule, `shared_cells="last"`.
- Panoptic FPN's semantic loss compares logits and labels at a stride of 4, as in MMDetection;
  Detectron2 enlarges the logits to the image first. MMDetection divides it by all cells, those
  without a label included (`SemanticHeadConfig(count_ignored=True)`, as in its configs above).
- The masks that targets are pooled from end at the image's border, as in Detectron2 and
  torchvision. MMDetection pads them with the batch, so that targets there depend on other images.
  Cascade R-CNN and HTC pad them here to each image's own padded size.
- Decoded boxes are at most 62.5 times as wide and high as their anchor or proposal, as in all
  sources; MMDetection also makes them at least 1/62.5 of it.
- PointRend in Detectron2 trains the masks in the boxes that the box head predicts
  (`TRAIN_ON_PRED_BOXES`), here and in MMDetection in the proposals.
- Of an image with more objects than `max_objects`, the largest are kept; in the sources, all.

## Import

```console
jaxseg weights import maskrcnn.pth --model maskrcnn_resnet50_fpn --out runs/published
jaxseg predict runs/published photo.jpg --out predicted
jaxseg eval runs/published --data COCO --split val2017
```

The table is generated: `python scripts/model_table.py > docs/models.md`.

## Backbones

{backbones} of torchvision and timm. `jaxseg train EXPERIMENT --pretrained FILE` starts from such a
file; `jaxseg weights import FILE --model resnet50 --out resnet50.safetensors` checks it first and
leaves the classifier out.
"""


def row(record: ZooModel) -> str:
    """Return the row of a model in the table."""
    aps = " / ".join(f"{ap:.1f}" for ap in (record.mask_ap, record.box_ap) if ap is not None)
    if record.mask_ap is None and record.box_ap is not None:
        aps = f"box {aps}"
    pq = "" if record.pq is None else f"PQ {record.pq:.1f}"
    figures = "; ".join(filter(None, (aps, pq))) or "not stated"
    experiment = f"`experiments/{record.experiment}.py`" if record.experiment else "none"
    if record.experiment and ", with " in record.experiment:
        name, _, flags = record.experiment.partition(", with ")
        experiment = f"`experiments/{name}.py`, with `{flags}`"
    cells = (
        f"`{record.name}`",
        figures,
        record.checkpoint,
        f"{record.parameters:,}",
        str(record.gmacs),
        experiment,
    )
    return f"| {' | '.join(cells)} |"


def document() -> str:
    """Return the text of docs/models.md."""
    rows = "\n".join(row(record) for record in MODELS.values())
    backbones = ", ".join(f"`{name}`" for name in RESNETS)
    return HEAD + rows + "\n" + TAIL.format(backbones=backbones)


def measured_gmacs(record: ZooModel) -> float:
    """Count the multiply-adds of one prediction, in 10^9."""
    model = record.config.build()
    shape = (1, *record.preprocessing.buckets[0], 3)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), shape))
    arguments = jax.ShapeDtypeStruct(shape, jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    cost = jax.jit(model.predict).lower(variables, *arguments).cost_analysis()
    return cost["flops"] / 2e9


def main() -> None:
    if sys.argv[1:] != ["--measure"]:
        print(document(), end="")
        return
    for record in MODELS.values():
        print(f"{record.name}: {measured_gmacs(record):.0f}, recorded {record.gmacs}")


if __name__ == "__main__":
    main()
