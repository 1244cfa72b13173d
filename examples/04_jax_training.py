"""A small training run in plain JAX: a convolutional network on random crops.

python examples/04_jax_training.py [DATASET]
"""

import argparse
import time
from itertools import pairwise

import jax
import jax.numpy as jnp

from loaderd import Normalize, RandomHorizontalFlip, RandomResizedCrop
from loaderd.jax import Batch, LanceLoader
from sample_data import sample_dataset

CHANNELS = (3, 16, 32, 64)
LEARNING_RATE, MOMENTUM = 0.02, 0.9

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("dataset", nargs="?", help="a Lance dataset [default: a generated one]")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--size", type=int, default=64, help="of the crops, in pixels")
parser.add_argument("--brief", action="store_true", help="a small run, for the tests")
arguments = parser.parse_args()

loader = LanceLoader(
    arguments.dataset or sample_dataset(96 if arguments.brief else 512),
    columns=["image", "label"],
    transform={
        "image": [
            RandomResizedCrop(arguments.size, scale=(0.3, 1.0)),
            RandomHorizontalFlip(),
            Normalize.imagenet("float32"),
        ]
    },
    batch_size=16 if arguments.brief else arguments.batch_size,
    shuffle=True,
    seed=0,
)
classes = len(loader.classes.get("label", [])) or 1000

Parameters = dict[str, jax.Array]


def initial(key: jax.Array) -> Parameters:
    """Weights as He et al. (2015) scale them, and biases of zero."""
    parameters = {}
    for layer, (inputs, outputs) in enumerate(pairwise(CHANNELS)):
        key, drawn = jax.random.split(key)
        scale = (2 / (9 * inputs)) ** 0.5
        parameters[f"conv{layer}"] = scale * jax.random.normal(drawn, (outputs, inputs, 3, 3))
        parameters[f"bias{layer}"] = jnp.zeros((outputs, 1, 1))
    parameters["head"] = jnp.zeros((CHANNELS[-1], classes))
    return parameters


def network(parameters: Parameters, image: jax.Array) -> jax.Array:
    """Logits ``[N, classes]`` of pictures ``[N, 3, H, W]``."""
    for layer in range(len(CHANNELS) - 1):
        image = jax.lax.conv(image, parameters[f"conv{layer}"], (2, 2), "SAME")
        image = jax.nn.relu(image + parameters[f"bias{layer}"])
    return image.mean(axis=(2, 3)) @ parameters["head"]


def loss_of(parameters: Parameters, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy, and how many were right."""
    logits = network(parameters, batch["image"])
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)
    return -chosen.mean(), (logits.argmax(axis=1) == batch["label"]).sum()


@jax.jit
def train_step(
    parameters: Parameters, momenta: Parameters, batch: Batch
) -> tuple[Parameters, Parameters, jax.Array, jax.Array]:
    """One step of gradient descent. Batches are pytrees, and of one shape: traced once."""
    (loss, right), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters, batch)
    momenta = jax.tree.map(lambda old, new: MOMENTUM * old + new, momenta, gradients)
    parameters = jax.tree.map(lambda old, by: old - LEARNING_RATE * by, parameters, momenta)
    return parameters, momenta, loss, right


parameters = initial(jax.random.key(0))
momenta = jax.tree.map(jnp.zeros_like, parameters)
losses = []
for epoch in range(3 if arguments.brief else arguments.epochs):
    found = []
    began = time.perf_counter()
    for batch in loader:
        parameters, momenta, loss, right = train_step(parameters, momenta, batch)
        found.append((loss, right, batch.rows))
    # Only here does it wait for what was computed.
    seen = sum(rows for _, _, rows in found)
    losses.append(sum(float(loss) for loss, _, _ in found) / len(found))
    rights = sum(int(right) for _, right, _ in found)
    seconds = time.perf_counter() - began
    print(
        f"epoch {epoch}: loss {losses[-1]:.2f}, {100 * rights / seen:.0f} % right, {seen} images "
        f"at {seen / seconds:.0f} images/s, dataset version {loader.version}"
    )

if losses[-1] >= losses[0]:
    raise SystemExit(f"the loss went from {losses[0]:.2f} to {losses[-1]:.2f}")
