"""tf.data over TFRecords: decodes only the crop, as TensorFlow's own ImageNet input does.

Enters: files of class folders, then a record file. Leaves: batches that PyTorch maps without a
copy (DLPack). `tf.image.resize` as that input calls it, without antialiasing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers.loaders.common import samples
from peers.roster import BATCH_SIZE, MEAN, RATIO, SCALE, SIZE, STD

if TYPE_CHECKING:
    import torch

_SHARDS = 8
_SHUFFLE_ROWS = 1024


def prepare(tree: Path, target: Path) -> None:
    import tensorflow as tf

    target.mkdir()
    shards = [tf.io.TFRecordWriter(str(target / f"{number}.tfrecord")) for number in range(_SHARDS)]
    for number, (encoded, label) in enumerate(samples(tree)):
        feature = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        shards[number % _SHARDS].write(example.SerializeToString())
    for shard in shards:
        shard.close()


def batches(data: Path, threads: int) -> Iterator[torch.Tensor]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    import torch

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = False
    shards = tf.data.Dataset.list_files(str(data / "*.tfrecord"), shuffle=True)
    rows = (
        shards.interleave(tf.data.TFRecordDataset, cycle_length=_SHARDS)
        .repeat()
        .shuffle(_SHUFFLE_ROWS)
        .map(finish, num_parallel_calls=threads)
        .batch(BATCH_SIZE, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    for image, _ in rows:
        yield torch.from_dlpack(image)


def finish(record: Any) -> tuple[Any, Any]:
    """One record to a finished picture, in graph mode."""
    import tensorflow as tf

    fields = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    row = tf.io.parse_single_example(record, fields)
    window = crop(tf.io.extract_jpeg_shape(row["image"]))
    image = tf.io.decode_and_crop_jpeg(row["image"], window, channels=3)
    image = tf.image.resize(image, [SIZE, SIZE])
    image = tf.image.random_flip_left_right(image)
    image = (image - tf.constant([255 * mean for mean in MEAN])) / tf.constant(
        [255 * std for std in STD]
    )
    return tf.transpose(image, [2, 0, 1]), row["label"]


def crop(shape: Any) -> Any:
    """Top, left, height and width by torchvision's rule: the first of ten draws that fits.

    `tf.image.sample_distorted_bounding_box` draws heights evenly, and so smaller areas.
    """
    import tensorflow as tf

    height, width = tf.cast(shape[0], tf.float32), tf.cast(shape[1], tf.float32)
    area = height * width * tf.random.uniform([10], *SCALE)
    ratio = tf.exp(tf.random.uniform([10], math.log(RATIO[0]), math.log(RATIO[1])))
    widths, heights = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = (widths <= width) & (heights <= height)
    # Where none fits, argmax gives the first, which is then cut to the picture.
    first = tf.argmax(tf.cast(fits, tf.int32))
    wide, high = tf.minimum(widths[first], width), tf.minimum(heights[first], height)
    left = tf.floor(tf.random.uniform([]) * (width - wide + 1))
    top = tf.floor(tf.random.uniform([]) * (height - high + 1))
    return tf.cast(tf.stack([top, left, high, wide]), tf.int32)
