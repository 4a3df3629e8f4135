"""Drives a headless Chromium, if one is installed, through its debugging pipe; needs no driver or package."""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from common import cli
from common.provenance import ROOT
from common.records import PAPERS, Paper
from reports import experiments

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Browser:
    """One page of a Chromium, driven by JSON messages that end in a zero byte, over file descriptors 3, 4."""

    def __init__(self, program: str, profile: Path):
        to_read, self.output = os.pipe()
        self.input, to_write = os.pipe()
        command = [
            "bash",
            "-c",
            f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}',
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self.buffer, self.number, self.session, self.complaints, self.loaded = b"", 0, None, [], False
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self.number += 1
        message = {
            "id": self.number,
            "method": method,
            "params": parameters,
            **({"sessionId": self.session} if self.session else {}),
        }
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self) -> dict:
        while b"\0" not in self.buffer:
            data = os.read(self.input, 1 << 16)
            assert data, "the browser has gone"
            self.buffer += data
        message, self.buffer = self.buffer.split(b"\0", 1)
        event = json.loads(message)
        self.note(event.get("method"), event.get("params", {}))
        return event

    def note(self, method: str | None, event: dict) -> None:
        """Keeps errors, and requests that leave the folder."""
        if method == "Page.loadEventFired":
            self.loaded = True
        elif (
            method == "Runtime.exceptionThrown"
            or (method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"))
            or (method == "Log.entryAdded" and event["entry"]["level"] == "error")
        ):
            self.complaints.append(json.dumps(event)[:300])
        elif method == "Network.requestWillBeSent" and event["request"]["url"].split(":")[0] not in (
            "file",
            "data",
            "about",
        ):
            self.complaints.append(f"asks the network for {event['request']['url']}")

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self.receive()

    def evaluate(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path, **clip: float) -> None:
        shot = self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            **({"clip": {"scale": 1, **clip}} if clip else {}),
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.output)
        os.close(self.input)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the path")
    page = Browser(program, tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@lru_cache
def answer(paper: str, preset: str) -> experiments.Answer:
    """What the paper's command prints, without a process that imports PyTorch."""
    module = importlib.import_module(f"{paper}.experiments")
    declared = next(value for value in vars(module).values() if isinstance(value, Paper))
    flags = ["--list-experiments", "--list-switches", "--preset", preset]
    data = json.loads(json.dumps(cli.list_answer(declared, flags)))
    return experiments.Answer({entry["key"]: entry for entry in data["experiments"]}, data["switches"])


@pytest.fixture(scope="session", autouse=True)
def answers_in_this_process() -> Iterator[Callable[..., experiments.Answer]]:
    """Answers for the papers of this repository come from this process; yields the command's own `ask`.

    `test_the_command_answers_what_this_process_does` compares the two.
    """
    ask = experiments.ask

    one_at_a_time = (
        threading.Lock()
    )  # `ask_all` asks from threads, in which ast.parse of Python 3.11 may fail

    def quick(paper: str, preset: str = "demo", root: Path = ROOT) -> experiments.Answer:
        if root != ROOT or paper not in PAPERS:
            return ask(paper, preset, root)
        with one_at_a_time:
            return answer(paper, preset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "ask", quick)
        patch.setattr(experiments, "list_all", lambda questions, root=ROOT: {})
        yield ask
