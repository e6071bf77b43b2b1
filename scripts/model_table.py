"""Size and cost of the published models: the figures of docs/models.md.

Multiply-adds are half of the floating-point operations that XLA counts in the prediction of one
padded image of 800x1344 pixels (448x768 for light models), with all proposals, candidates and
masks that there is room for. Nothing is compiled.

    python scripts/model_table.py
"""

import jax
import jax.numpy as jnp

from jaxseg.zoo.published import BY_NAME


def main() -> None:
    print("| model | parameters, million | multiply-adds, 10^9 |")
    print("| --- | --- | --- |")
    for name, config in BY_NAME.items():
        model = config.build()
        shape = (1, 448, 768, 3) if "_light_" in name else (1, 800, 1344, 3)
        variables = jax.eval_shape(lambda m=model, s=shape: m.init(jax.random.key(0), s))
        arguments = (
            jax.ShapeDtypeStruct(shape, jnp.uint8),
            jax.ShapeDtypeStruct((1, 2), jnp.int32),
        )
        cost = jax.jit(model.predict).lower(variables, *arguments).cost_analysis()
        weights = {k: v for k, v in variables.items() if k in ("params", "frozen")}
        count = sum(x.size for x in jax.tree.leaves(weights))
        print(f"| `{name}` | {count / 1e6:.2f} | {cost['flops'] / 2e9:.0f} |")


if __name__ == "__main__":
    main()
