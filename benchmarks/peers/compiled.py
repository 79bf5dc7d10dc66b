"""C sources of the benchmarks, compiled at their first use into build/bench/ of the checkout.

Owns: that folder. A library or program is made under another name and moved into place, so that two
processes that compile at once each leave a whole one.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra")


def compiled(source: Path, *, shared: bool = False) -> Path:
    """The library (`shared`) or program made of `source`, anew if the source is newer."""
    folder = ROOT / "build" / "bench"
    target = folder / (f"{source.stem}.so" if shared else source.stem)
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{target.name}.{os.getpid()}"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    kind = ("-shared", "-fPIC") if shared else ()
    command = [*compiler, *FLAGS, *kind, "-o", made, source, "-pthread", "-lrt"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        made.replace(target)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{source.name} does not compile:\n{error.stderr}") from error
    finally:
        made.unlink(missing_ok=True)
    return target
