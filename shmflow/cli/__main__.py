"""``python -m shmflow.cli`` is ``shmflow``."""

from shmflow.cli import main

main(prog_name="shmflow")
