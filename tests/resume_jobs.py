"""Runs a job in forked children of one warm process and kills them, so that hundreds of kills take minutes.

``python resume_jobs.py HOME`` reads one JSON request per line and answers each with one line. A request names a
job, its folder and how to die: "time" (kill -9 after so many seconds) or "write" (kill -9 just before or just
after the n-th file is renamed into place, or in the middle of writing it).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path


def tiny_config(data: str, **overrides):
    """A network that trains in a second; every part of training and evaluation is in it."""
    from tlg_lib.config import make_config

    return make_config(
        "smoke",
        **{
            "data": data,
            "dataset": "pascal",
            "image_size": 64,
            "width": 8,
            "widths_4d": [4, 4, 8],
            "token_count": 4,
            "steps": 7,
            "batch": 2,
            "epoch_steps": 3,
            "checkpoint_every": 2,
            "epoch_episodes": 2,
            "eval_episodes": 6,
            "backbone_weights": "random",
            "device": "cpu",
            **overrides,
        },
    )


def train_job(folder: Path, request: dict) -> None:
    from tlg_lib.train import train

    train(tiny_config(request["data"], **request.get("set", {})), folder, False, request["inputs"])


def evaluate_job(folder: Path, request: dict) -> None:
    """Training is finished beforehand; scoring it is what gets killed."""
    from tlg_lib.runs.study import evaluate_trained, evaluate_training_free

    config = tiny_config(request["data"], **request.get("set", {})).to_dict()
    evaluate_trained(config, str(folder), "x", "X", (1, 2), True, inputs=request["inputs"])
    evaluate_training_free(config, str(folder / "free"), (1,), request["inputs"])


def mini_job(folder: Path, request: dict) -> None:
    from tlg_lib.data.mini.make import make_mini

    make_mini(folder / "mini", images_per_class=4, size=64, progress=False, workers=1)


def masks_job(folder: Path, request: dict) -> None:
    from tlg_lib.data.folder import SegmentationFolder
    from tlg_lib.masks.clips import load_clip
    from tlg_lib.masks.generate import generate_masks

    data = SegmentationFolder(request["data"], "mini")
    rows = data.rows("val", 0)
    generate_masks(data, load_clip("mini"), rows, folder / "masks", progress=False)


JOBS = {"train": train_job, "evaluate": evaluate_job, "mini": mini_job, "masks": masks_job}


def die_at_write(number: int, how: str, counted: dict) -> None:
    """kill -9 this process at its ``number``-th write through tlg_lib.machine.paths.atomic; counts the writes."""
    replace, fsync = os.replace, os.fsync

    def due(event: str) -> bool:
        counted[event] += 1
        return counted[event] == number and (event == "middle") == (how == "middle")

    def dying_fsync(descriptor):
        if due("middle"):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)  # half of it reached the disk
            os.kill(os.getpid(), signal.SIGKILL)
        return fsync(descriptor)

    def dying_replace(*arguments, **kwargs):
        dying = due("rename")
        if dying and how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments, **kwargs)
        if dying:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync, os.replace = dying_fsync, dying_replace


def run(request: dict) -> dict:
    """Fork, run, kill as asked; returns how the child ended, how long it took and how many files it wrote."""
    began = time.monotonic()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code, counted = 1, {"middle": 0, "rename": 0}
        try:
            die_at_write(request.get("write", 0), request.get("how", ""), counted)
            JOBS[request["job"]](Path(request["folder"]), request)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os.write(write, str(counted["rename"]).encode())
            os._exit(code)
    os.close(write)
    status = None
    while status is None:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = code
        elif "time" in request and time.monotonic() - began > request["time"]:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        else:
            time.sleep(0.005)
    with os.fdopen(read) as pipe:
        writes = int(pipe.read() or 0)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began, "writes": writes}


def main() -> None:
    os.environ["TLG_HOME"] = sys.argv[1]
    import torch

    torch.set_num_threads(1)
    import lightning_fabric  # noqa: F401  imported once, here, and not in every child
    import timm  # noqa: F401

    import tlg_lib.runs.study
    import tlg_lib.train  # noqa: F401
    from tlg_lib.inputs import Inputs
    from tlg_lib.machine.code import code_digest
    from tlg_lib.runs.jobs import SCORING

    inputs = Inputs()
    code_digest(SCORING)  # read once, here
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")  # the library may print
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("warm"):  # open the inputs in the parent: children inherit them
            inputs.open(tiny_config(request["data"], **request.get("set", {})))
            print(json.dumps({"number": request["number"]}), file=answers, flush=True)
        else:
            print(
                json.dumps({"number": request["number"], **run({**request, "inputs": inputs})}),
                file=answers,
                flush=True,
            )


if __name__ == "__main__":
    main()
