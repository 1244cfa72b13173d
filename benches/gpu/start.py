#!/usr/bin/env python3
"""Checks loaderd on this machine's GPU: see benches/README.md. Options: --help."""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
for folder in ("bin", "tests"):
    for name in os.listdir(os.path.join(here, folder)):
        program = os.path.join(here, folder, name)
        # Not every way to copy files keeps that they are programs.
        if not os.access(program, os.X_OK):
            os.chmod(program, 0o755)
path = [os.path.join(here, "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(path)
os.execv(sys.executable, [sys.executable, "-m", "gpu", here, *sys.argv[1:]])
