"""Small datasets of drawn pictures, for examples that are run without one."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

LOADERD = Path(sysconfig.get_path("scripts")) / "loaderd"


def sample_dataset(count: int) -> str:
    """Draws ``count`` pictures of six classes and ingests them; returns the dataset's path.

    It lies in a temporary folder that goes when the example ends.
    """
    folder = Path(tempfile.mkdtemp(prefix="loaderd-example-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pictures, dataset = folder / "pictures", folder / "pictures.lance"
    subprocess.run([LOADERD, "sample", pictures, "--count", str(count)], check=True)
    subprocess.run([LOADERD, "ingest", pictures, dataset], check=True)
    return str(dataset)


def street_dataset(count: int) -> str:
    """Draws ``count`` street frames, with weather, scene and boxes; returns the dataset's path.

    ``loaderd ingest --help`` lists the columns. As above, it is left to the system to clean up.
    """
    dataset = Path(tempfile.mkdtemp(prefix="loaderd-example-")) / "streets.lance"
    subprocess.run([LOADERD, "ingest", "--synthetic", str(count), dataset], check=True)
    return str(dataset)
