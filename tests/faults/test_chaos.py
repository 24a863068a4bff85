"""A short chaos: what `python -m tests.chaos --kills 50` does at length."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.launches import ROOT
from tests.faults.record import record


@pytest.mark.slow
def test_three_kills_at_random_and_the_end_is_identical(portrait_shards: Path, tmp_path: Path):
    line = [sys.executable, "-m", "tests.chaos", "--kills", "3", "--seed", "2", "--recipe", "house"]
    line += ["--shards", str(portrait_shards), "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills" in done.stdout and "identical to the bit" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["identical"] and len(found["kills"]) == 3
    for kill in found["kills"]:
        record(f"chaos, {kill['kind']}", "bit-identical", kill["images_lost"], kill["seconds"])
