"""Who takes part: names, titles, environments, data sets and what is special about each.

Enters: nothing. Leaves: tables that both sides read, the run in loaderd's own environment and
the contestants in theirs; so it imports nothing that has to be installed.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH_SIZE = 128
SIZE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
#: Share of the picture's area and aspect ratio that RandomResizedCrop draws from.
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
#: FFCV's own encoding: longest side in pixels, and JPEG quality.
FFCV_PIXELS_MAX = 500
FFCV_QUALITY = 90


@dataclass(frozen=True)
class Contestant:
    """One loader with one setting."""

    name: str
    title: str
    #: ``module:function`` below ``peers.loaders`` that yields its batches.
    loader: str
    #: The data set that it reads; see `FORMS`.
    form: str
    #: Its environment, a file in ``requirements``; none: loaderd's own.
    group: str | None = None
    #: What must be importable there.
    modules: tuple[str, ...] = ()
    #: Distribution whose version is reported.
    package: str | None = None
    #: uint8 batches are neither normalised nor laid out anew.
    dtype: str = "float32"
    #: Sets of pictures that it is measured on.
    sets: tuple[str, ...] = ("photos",)
    note: str = ""


@dataclass(frozen=True)
class Form:
    """A data set: where it comes from, and what writes it."""

    #: ``module:function`` below ``peers.loaders``; none: the files as they are.
    writer: str | None
    group: str | None = None
    #: The form that it is written from; none: the files.
    source: str | None = None


BOTH = ("photos", "frames")

FORMS = {
    "files": Form(None),
    "untiled": Form("daemon:prepare_untiled"),
    "tiled": Form("daemon:prepare_tiled"),
    "large_binary": Form("lance_rows:prepare"),
    "tfrecord": Form("tf_data:prepare", "tensorflow"),
    "tar": Form("web_dataset:prepare", "webdataset"),
    "mds": Form("mosaicml:prepare", "mosaicml"),
    "chunks": Form("lit_data:prepare", "litdata"),
    "array_record": Form("grain_loader:prepare", "grain"),
    "beton": Form("ffcv_loader:prepare", "ffcv"),
    # FFCV's JPEGs as files, and as loaderd keeps them.
    "ffcv_files": Form("ffcv_loader:prepare_files", "ffcv"),
    "ffcv_untiled": Form("daemon:prepare_untiled", source="ffcv_files"),
    "ffcv_tiled": Form("daemon:prepare_tiled", source="ffcv_files"),
}

LOSSY = f"its own lossy JPEGs, at most {FFCV_PIXELS_MAX} pixels a side, quality {FFCV_QUALITY}"

CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(
            "loaderd_tiled",
            "loaderd, tiled",
            "daemon:torch_batches",
            "tiled",
            package="loaderd",
            sets=BOTH,
        ),
        Contestant(
            "loaderd",
            "loaderd, untiled",
            "daemon:torch_batches",
            "untiled",
            package="loaderd",
            sets=BOTH,
        ),
        Contestant(
            "loaderd_fast_dct",
            "loaderd, tiled, fast_dct",
            "daemon:fast_dct_batches",
            "tiled",
            package="loaderd",
            sets=BOTH,
            note="scaled inverse DCT down to 1 x the target",
        ),
        Contestant(
            "loaderd_jax",
            "loaderd into JAX, tiled",
            "daemon:jax_batches",
            "tiled",
            modules=("jax",),
            package="jax",
        ),
        Contestant(
            "dali",
            "DALI, CPU pipeline",
            "dali:batches",
            "files",
            "dali",
            ("nvidia.dali",),
            "nvidia-dali-cuda130",
            sets=BOTH,
        ),
        Contestant(
            "ffcv",
            "FFCV",
            "ffcv_loader:batches",
            "beton",
            "ffcv",
            ("ffcv",),
            "ffcv",
            note=LOSSY,
        ),
        Contestant(
            "torchvision",
            "DataLoader + torchvision, Lance",
            "lance_rows:batches",
            "large_binary",
            modules=("lance", "torchvision"),
            package="torchvision",
            sets=BOTH,
        ),
        Contestant(
            "torchvision_files",
            "DataLoader + torchvision, files",
            "torch_files:batches",
            "files",
            modules=("torchvision",),
            package="torchvision",
        ),
        Contestant(
            "tf_data",
            "tf.data, decode_and_crop_jpeg",
            "tf_data:batches",
            "tfrecord",
            "tensorflow",
            ("tensorflow",),
            "tensorflow-cpu",
            note="resizes without antialiasing",
        ),
        Contestant(
            "grain",
            "Grain",
            "grain_loader:batches",
            "array_record",
            "grain",
            ("grain", "array_record"),
            "grain",
        ),
        Contestant(
            "litdata",
            "LitData",
            "lit_data:batches",
            "chunks",
            "litdata",
            ("litdata",),
            "litdata",
        ),
        Contestant(
            "mosaicml",
            "MosaicML Streaming",
            "mosaicml:batches",
            "mds",
            "mosaicml",
            ("streaming",),
            "mosaicml-streaming",
        ),
        Contestant(
            "webdataset",
            "WebDataset",
            "web_dataset:batches",
            "tar",
            "webdataset",
            ("webdataset",),
            "webdataset",
        ),
        Contestant(
            "spdl_torchvision",
            "SPDL, torchvision's decoder",
            "spdl_loader:torchvision_batches",
            "files",
            "spdl",
            ("spdl",),
            "spdl",
        ),
        Contestant(
            "spdl",
            "SPDL, its FFmpeg decoder",
            "spdl_loader:batches",
            "files",
            "spdl",
            ("spdl", "spdl.io"),
            "spdl",
        ),
        Contestant(
            "lancedb",
            "LanceDB StreamingDataset",
            "lance_db:batches",
            "large_binary",
            "lancedb",
            ("lancedb",),
            "lancedb",
        ),
        Contestant(
            "ffcv_uint8",
            "FFCV, uint8",
            "ffcv_loader:uint8_batches",
            "beton",
            "ffcv",
            ("ffcv",),
            "ffcv",
            dtype="uint8",
            note=LOSSY,
        ),
        Contestant(
            "loaderd_uint8_tiled",
            "loaderd, uint8, FFCV's JPEGs, tiled",
            "daemon:uint8_batches",
            "ffcv_tiled",
            package="loaderd",
            dtype="uint8",
        ),
        Contestant(
            "loaderd_uint8",
            "loaderd, uint8, FFCV's JPEGs",
            "daemon:uint8_batches",
            "ffcv_untiled",
            package="loaderd",
            dtype="uint8",
        ),
    )
}
