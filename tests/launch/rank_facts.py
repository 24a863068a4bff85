"""Launched by the tests as a training program would be: joins the ranks, adds over them, writes what it saw.

    rank_facts.py FOLDER [wait]

FOLDER/rank-R.json holds what rank R saw. With `wait` it then waits for SIGTERM, writes FOLDER/stopped-R and leaves
with exit code 0.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator


def main() -> None:
    folder = Path(sys.argv[1])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    total = torch.tensor([2.0**accelerator.process_index], device=accelerator.device)
    torch.distributed.all_reduce(total)
    facts = {
        "rank": accelerator.process_index,
        "num_processes": accelerator.num_processes,
        "world_size": int(os.environ["WORLD_SIZE"]),
        "device": accelerator.device.type,
        "backend": torch.distributed.get_backend(),
        "total": total.item(),
        "threads": torch.get_num_threads(),
        "gpus_seen": torch.cuda.device_count(),
        "mixed_precision": os.environ["ACCELERATE_MIXED_PRECISION"],
        "dynamo": os.environ["ACCELERATE_DYNAMO_BACKEND"],
    }
    written = folder / f"rank-{accelerator.process_index}.tmp"
    written.write_text(json.dumps(facts))
    written.rename(written.with_suffix(".json"))
    deadline = time.monotonic() + 60
    while "wait" in sys.argv and not stop and time.monotonic() < deadline:
        time.sleep(0.05)
    if stop:
        (folder / f"stopped-{accelerator.process_index}").touch()
    accelerator.end_training()


if __name__ == "__main__":
    main()
