"""Why a run ends is one line, with the cause where this rank knows it, and says whether to start it again."""

from pathlib import Path

import pytest
import torch
from torch.distributed import DistBackendError, DistStoreError

from t2f_dist.storage.patience import Denied, Unreachable
from t2f_dist.training.fingerprint import RanksDiffer
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.run import status
from t2f_dist.training.run.failure import in_words, is_foreseen, worth_a_retry
from t2f_dist.training.run.run_folder import RunFolder
from tests.training.small import config

# As torch words them: a line of where, one of what kind, and what NCCL said last.
SHARED_MEMORY = """NCCL error in: NCCLUtils.cpp:94, unhandled system error, NCCL version 2.28.3
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
Error while creating shared memory segment /dev/shm/nccl-x (size 33030528), error: No space left on device (28)"""
REMOTE = """NCCL error in: NCCLUtils.cpp:94, remote process exited or there was a network error
ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.
Last error:
socketProgress: Connection closed by remote peer node1<40120>"""
LOST = "rank 3 lost the others ("
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
)


@pytest.mark.parametrize(
    ("error", "line", "retry", "foreseen"),
    [
        (ValueError("stages.0 is wrong:\n  mend it"), "stages.0 is wrong: mend it", False, True),
        (OSError("no space left"), "no space left", True, True),
        (Unreachable("s3://b/x: given up after 5 tries"), "s3://b/x: given up after 5 tries", True, True),
        (Denied("s3://b/x: access denied"), "s3://b/x: access denied", False, True),
        (FileNotFoundError("no such shards"), "no such shards", False, True),
        (RanksDiffer(["stem"], [1], 8, True), "the ranks no longer train", True, True),
        (RuntimeError("[gloo/x.cc:5] Connection closed by peer"), f"{LOST}Connection closed by peer)", True, True),
        (DistStoreError("Connection was likely closed"), f"{LOST}Connection was likely closed)", True, True),
        (DistBackendError(REMOTE), f"{LOST}NCCL error in: ", True, True),
        (DistBackendError(SHARED_MEMORY), "rank 3 cannot exchange with the others: NCCL error in: ", True, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB."), "rank 3 is out of memory (CUDA out ", True, True),
        (RuntimeError(CPU_MEMORY), "rank 3 is out of memory (err == 0. ", True, True),
        (MemoryError(), "rank 3 is out of memory (MemoryError): set or lower train.batch_per_gpu_max", True, True),
        (RuntimeError("CUDA error: uncorrectable ECC"), "RuntimeError: CUDA error: uncorrectable ECC", True, False),
    ],
)  # fmt: skip
def test_a_failure_is_a_line_and_says_whether_to_start_again(error, line, retry, foreseen):
    said = in_words(error, 3)
    assert said.startswith(line) and "\n" not in said
    assert (worth_a_retry(error), is_foreseen(error)) == (retry, foreseen)


def test_of_nccl_the_last_error_is_said():
    assert in_words(DistBackendError(SHARED_MEMORY), 0).endswith("error: No space left on device (28)")
    assert "Connection closed by remote peer node1" in in_words(DistBackendError(REMOTE), 0)


def test_the_status_says_the_same(portrait_shards: Path, tmp_path: Path):
    settings = config("house", portrait_shards, tmp_path / "run")
    for error in (ValueError("mend it"), Unreachable("given up")):
        folder = RunFolder(settings, Ranks(60))
        folder.fail(error)
        folder.release()
        found = status.read(tmp_path / "run")
        assert (found["outcome"], found["reason"]) == ("failed", in_words(error, 0))
        assert found["retry"] == worth_a_retry(error)
