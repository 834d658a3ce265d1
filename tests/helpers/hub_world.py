"""What the scenarios of releases (hub_scenarios.py) share: the product's functions beside a loopback Hub."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.loopback_hub import LoopbackHub
from tests.helpers.release_folders import make_dataset, stamped_folder

REPO = "user/pairs"


class World:
    """The Hub, a folder for files, and the product's functions, imported after the environment was set."""

    def __init__(self, hub: LoopbackHub, folder: Path) -> None:
        from visrl_data.core import hub_access
        from visrl_data.publishing import release

        hub_access.DELAYS, hub_access.AGAIN = (0.01, 0.01), (0.01,)
        self.hub, self.folder, self.options = hub, folder, release.PushOptions
        self.said: list[str] = []

    def cache(self) -> str:
        return tempfile.mkdtemp(dir=self.folder, prefix="cache-")

    def dataset(self, name: str, **more: Any) -> Any:
        return stamped_folder(make_dataset(self.folder / name, **more))

    def publish(self, folder: Any, tag: str | None = None, repo: str = REPO, **options: Any) -> Any:
        """What publish returns, or the text of its VisRLError."""
        from visrl_data.core.errors import VisRLError
        from visrl_data.publishing.release import publish

        self.said.clear()
        try:
            return publish(folder, repo, tag, self.options(**options), self.said.append)
        except VisRLError as error:
            return str(error)


@contextlib.contextmanager
def environment(change: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(change)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """The kernel lets no file grow beyond a limit; the error differs from that of a full disk in its number only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def scripted_generate() -> Iterator[None]:
    """`visrl gen` with models made of dice."""
    from unittest import mock

    from tests.conftest import scripted_reply
    from visrl_data.engines.protocol import Role
    from visrl_data.engines.scripted import ScriptedEngine
    from visrl_data.executors import generation

    engine = ScriptedEngine(scripted_reply)
    scripted = functools.partial(generation.generate, roles=(Role(engine, True), Role(engine, False)))
    with mock.patch.object(generation, "generate", scripted):
        yield
