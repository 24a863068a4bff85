"""A real run full of secrets: none is in what it writes, and nothing listens but the ranks for each other."""

import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist import train as train_module
from t2f_dist.config.load import dump
from t2f_dist.config.redaction import redacted, said
from t2f_dist.config.schema import Config
from t2f_dist.train import main as train_command
from tests.end_to_end.launches import children_of, launch, log_of, status_of
from tests.training.short_run import checkpoints_in
from tests.training.small import config
from tests.web import served

ROOT = Path(__file__).resolve().parents[1]
CANARY = "CANARY"
SECRETS = {
    "WANDB_API_KEY": f"{CANARY}1" + "0" * 33,  # 40 letters, as wandb's are
    "AWS_ACCESS_KEY_ID": f"{CANARY}2",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}3",
    "AWS_SESSION_TOKEN": f"{CANARY}4",
    "HF_TOKEN": f"{CANARY}5",
}


class Listening(NamedTuple):
    pid: int
    address: str
    port: int


def tree(pid: int) -> Iterator[int]:
    yield pid
    for child in children_of(pid):
        yield from tree(child)


def listening(pid: int) -> set[Listening]:
    """The TCP sockets on which a process and all below it listen, and UDP sockets that are bound."""
    sockets: dict[str, tuple[str, int]] = {}
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                sockets[fields[9]] = str(ipaddress.ip_address(b"".join(words))), int(port, 16)
    found = set()
    for each in tree(pid):
        with suppress(OSError):  # it has ended
            for descriptor in Path(f"/proc/{each}/fd").iterdir():
                with suppress(OSError):
                    match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
                    if match and match[1] in sockets:
                        found.add(Listening(each, *sockets[match[1]]))
    return found


class Leaky(NamedTuple):
    config: Config
    cache: Path
    sockets: set[Listening]
    launcher: int


@pytest.fixture(scope="module")
def leaky(portrait_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaky]:
    """Two ranks that read shards at a URL full of secrets, with others in their environment; what they listened on."""
    folder = tmp_path_factory.mktemp("leaky")
    with served() as web:
        place = web.put_folder(portrait_shards)
        secret = place.replace("://", f"://user:{CANARY}6@") + f"?X-Amz-Signature={CANARY}7&token={CANARY}8"
        warm = f"https://{CANARY}9@example.invalid/run"
        run = config("house", Path(place), folder / "run", "wandb.mode=offline", f"data.cache_dir={folder}/cache")
        options = ("--set", f"data.shards={secret}", "--set", f"wandb.tags=[{warm}]")
        sockets: set[Listening] = set()
        with launch(run, 2, *options, environment=os.environ | SECRETS) as process:
            deadline = time.monotonic() + 300
            while process.poll() is None:
                assert time.monotonic() < deadline, log_of(run)
                sockets |= listening(process.pid)
                time.sleep(0.05)
        assert process.returncode == 0, log_of(run)
        yield Leaky(run, folder / "cache", sockets, process.pid)


def holding(folder: Path, word: bytes) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and word in path.read_bytes()]


@pytest.mark.slow
def test_no_secret_is_in_anything_that_a_run_writes(leaky: Leaky):
    run = Path(leaky.config.run)
    assert status_of(leaky.config)["outcome"] == "finished"
    for kind in ("config.yaml", "checkpoints/*/*.json", "snapshots/*.safetensors", "wandb/*/*.wandb", "status.json"):
        assert list(run.glob(kind)), f"no {kind}: it would be looked for in vain"
    assert holding(run, CANARY.encode()) == []
    assert holding(leaky.cache, CANARY.encode()) == []
    assert CANARY not in log_of(leaky.config)
    assert holding(run, b"redacted"), "it was there to be taken out"


@pytest.mark.slow
def test_what_was_written_without_its_secret_is_refused_with_a_remedy(leaky: Leaky, tmp_path: Path):
    path = Path(leaky.config.run) / "config.yaml"
    line = [sys.executable, "-m", "t2f_dist.train", "--config", str(path), "--run", str(tmp_path / "run")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert "was written down without its password or query: name the whole URL again" in error


@pytest.mark.slow
def test_nothing_listens_but_the_ranks_for_each_other(leaky: Leaky):
    """The store of the rendezvous, of torch, listens on all interfaces; gloo's pairs on the host's own address."""
    own = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    for family, *_, address in socket.getaddrinfo(socket.gethostname(), None):
        assert family in (socket.AF_INET, socket.AF_INET6)
        own |= {str(address[0]), f"::ffff:{address[0]}"}
    assert leaky.sockets, "a launch of two ranks has a store"
    wide = {each for each in leaky.sockets if ipaddress.ip_address(each.address).is_unspecified}
    stores = {each.port for each in wide}
    assert len(stores) <= 2, f"more than the launcher's store and the ranks': {wide}"
    assert {each.address for each in leaky.sockets - wide} <= own, leaky.sockets


@pytest.mark.slow
def test_the_state_of_a_checkpoint_is_json_and_tensors_alone(leaky: Leaky):
    folder = checkpoints_in(Path(leaky.config.run) / "checkpoints")[0]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors"}


def test_a_plan_and_a_refusal_hold_no_secret(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(dump(config("house", Path("x"), tmp_path / "run")))
    train = ["--config", str(path), "--set"]
    url = f"data.shards=https://user:{CANARY}@127.0.0.1:9/x?token={CANARY}"
    plan = CliRunner().invoke(train_command, [*train, url, "--dry-run"])
    assert plan.exit_code == 0 and "https://redacted@127.0.0.1:9/x?redacted" in plan.output
    key = CliRunner().invoke(train_command, [*train, f"wandb.api_key={CANARY}"])
    assert key.exit_code == 1 and "unknown key wandb.api_key" in key.output
    assert CANARY not in plan.output + key.output


@pytest.mark.parametrize("kind", [RuntimeError, KeyError])
def test_a_fault_of_the_program_is_a_traceback_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    path = tmp_path / "run.yaml"
    path.write_text(dump(config("house", Path("x"), tmp_path / "run")))

    def fails(config: Config) -> bool:
        raise kind(f"at https://user:{CANARY}@h/x?token={CANARY}")

    monkeypatch.setattr(train_module, "_train", fails)
    done = CliRunner().invoke(train_command, ["--config", str(path)])
    assert done.exit_code == 1
    assert "Traceback" in done.output and "in fails" in done.output and "https://redacted@h/x?redacted" in done.output
    assert CANARY not in done.output


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://u:CANARY@h/x?a=CANARY#CANARY", "https://redacted@h/x?redacted"),
        ("no such file: http://h/x?CANARY, tried 3 times", "no such file: http://h/x?redacted tried 3 times"),
        ("s3://CANARY:CANARY@bucket/x", "s3://redacted@bucket/x"),
        ("s3://bucket/what?#.tar", "s3://bucket/what?#.tar"),
        ("hf://datasets/u/r@main/x", "hf://datasets/u/r@main/x"),
        ("/home/a@b/x?y", "/home/a@b/x?y"),
        ("--set wandb.api_key=CANARY", "--set wandb.api_key=redacted"),
        ("AWS_SECRET_ACCESS_KEY: 'CANARY x'", "AWS_SECRET_ACCESS_KEY: redacted"),
        ("x.password = CANARY;", "x.password = redacted;"),
        ("data.max_words=3 keys: a, b", "data.max_words=3 keys: a, b"),
        ("{'password': 'CANARY'}", "{'password': redacted}"),
        ('{"AWS_SECRET_ACCESS_KEY": "CANARY"}', '{"AWS_SECRET_ACCESS_KEY": redacted}'),
        ("X-Api-Key: CANARY", "X-Api-Key: redacted"),
        ("api-key=CANARY", "api-key=redacted"),
        ("Authorization: Bearer CANARY", "Authorization: Bearer redacted"),
        ("{'Authorization': 'Bearer CANARY'}", "{'Authorization': 'Bearer redacted'}"),
        ("it sent Bearer CANARYCANARY", "it sent Bearer redacted"),
        ("--token CANARY x", "--token redacted x"),
        ("HF_TOKEN CANARY", "HF_TOKEN redacted"),
        ("WANDB_KEY=CANARY", "WANDB_KEY=redacted"),
        ("AccountKey=CANARY", "AccountKey=redacted"),
        ("https://u:p@ss/CANARY@host/x", "https://redacted@host/x"),
        ("4 tokens of the key `run`, a token is a word", "4 tokens of the key `run`, a token is a word"),
        ("http://localhost:80/a@b/x", "http://localhost:80/a@b/x"),
        ("http://localhost:80/x and hf://datasets/u/r@main/x", "http://localhost:80/x and hf://datasets/u/r@main/x"),
    ],
)
def test_secrets_are_taken_out_of_a_message(text: str, kept: str):
    assert said(text) == kept
    assert said(said(text)) == kept


@given(st.text(st.sampled_from("aB0:/@?#=&.-_% {},'\""), max_size=40), st.sampled_from(["http", "https", "HTTPS"]))
def test_no_query_and_no_user_survives(rest: str, scheme: str):
    host = re.sub(r"[\s/?#@'\"]", "", rest) or "h"
    url = f"{scheme}://user:{CANARY}@{host}/x?{CANARY}"
    assert CANARY not in json.dumps(redacted({"a": [url, {"b": f"{rest} {url}"}]}))
