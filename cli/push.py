"""`visrl push`: runs or a model, to the Hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import print_result, say
from .options import Json, PadSquare

if TYPE_CHECKING:
    from visrl_data.publishing.release import PushResult

HubId = Annotated[
    str | None,
    typer.Option("--hub-id", metavar="USER/NAME", help="Repository. Default: your user name / the folder's name."),
]
Tag = Annotated[
    str | None, typer.Option("--tag", metavar="TAG", help="Version. Default: v1.0, then v1.1, ...; never moved.")
]
Private = Annotated[bool, typer.Option("--private", help="Make the repository private; refuse one that is public.")]

_CARD = "Dataset options"
_HUB = "Hub options"


def push(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Finished runs; USER/NAME@TAG to merge them with a published version; or one dataset folder, or one "
            "model folder.",
        ),
    ],
    hub_id: HubId = None,
    tag: Tag = None,
    private: Private = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build the folder and show what would change; send nothing.")
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(metavar="SPDX", help="License of questions whose source states none.", rich_help_panel=_CARD),
    ] = None,
    ship_images: Annotated[
        bool | None,
        typer.Option(
            "--ship-images/--no-ship-images",
            help="Embed all images, or none. Default: those that may be redistributed.",
            rich_help_panel=_CARD,
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="ISO code; may be repeated.", rich_help_panel=_CARD)
    ] = None,
    pretty_name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Title of the card.", rich_help_panel=_CARD)
    ] = None,
    pad_square: PadSquare = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Keep the dataset in this folder.", rich_help_panel=_CARD),
    ] = None,
    with_base: Annotated[
        bool,
        typer.Option(
            "--with-base",
            help="Publish the model under an adapter too, as NAME-base, where the Hub does not have it.",
            rich_help_panel=_HUB,
        ),
    ] = False,
    space: Annotated[
        bool,
        typer.Option(
            "--space",
            help="Show the report of the run, with its gallery, in a static Space, NAME-report. All images must be "
            "published.",
            rich_help_panel=_HUB,
        ),
    ] = False,
    branch: Annotated[str, typer.Option(metavar="NAME", help="Branch of the commit.", rich_help_panel=_HUB)] = "main",
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request; tag it after its merge.", rich_help_panel=_HUB)
    ] = False,
    allow_schema_change: Annotated[
        bool,
        typer.Option(
            "--allow-schema-change",
            help="Publish changes that break code written for the last tag.",
            rich_help_panel=_HUB,
        ),
    ] = False,
    no_reload: Annotated[
        bool,
        typer.Option(
            "--no-reload", help="Trust the Hub's digests instead of reading everything back.", rich_help_panel=_HUB
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish runs as one dataset, or a trained model: one commit, one tag, read back and compared.

    The same content pushed again changes nothing. After a failure, run the same command again. Log in first with
    `hf auth login`, or set HF_TOKEN.

    Examples:

      visrl push runs/photos --hub-id user/photos --tag v1.0

      visrl push runs/photos runs/charts --dry-run

      visrl push user/photos@v1.0 runs/photos2 --tag v1.1

      visrl push runs/photos --space

      visrl push models/rl2 --private

      visrl push models/rl2 --with-base
    """
    from visrl_data.publishing.push import Card, push
    from visrl_data.publishing.release import PushOptions

    options = PushOptions(
        private=private,
        branch=branch,
        create_pr=create_pr,
        allow_schema_change=allow_schema_change,
        dry_run=dry_run,
        reload=not no_reload,
    )
    card = Card(license, ship_images, tuple(language or ()), pretty_name, pad_square)
    published = push(what, hub_id, tag, options, None if card == Card() else card, output, say, with_base, space)
    print_result(json.dumps(dataclasses.asdict(published)) if as_json else summarize(published))


def prepare_push(
    push_to_hub: bool, run: Path, hub_id: str | None, tag: str | None, private: bool
) -> Callable[[], PushResult] | None:
    """Return what publishes the run of `visrl gen --push-to-hub`; check name, tag and token before the run starts."""
    from visrl_data.core.errors import UsageError

    if not push_to_hub:
        if hub_id or tag or private:
            raise UsageError("--hub-id, --tag and --private need --push-to-hub.")
        return None
    from visrl_data.publishing.push import check_token, push
    from visrl_data.publishing.release import PushOptions, default_hub_id
    from visrl_data.publishing.release_plan import check_tag

    if tag is not None:
        check_tag(tag)
    name = default_hub_id(hub_id, run.resolve().name)
    check_token()
    return lambda: push([run], name, tag, PushOptions(private=private), say=say)


def summarize(published: PushResult) -> str:
    """Return a line about what was published, and one about the Space beside it."""
    if published.space:
        return f"{summarize(dataclasses.replace(published, space=None))}\n{summarize(published.space)}"
    address = f"{published.url}/tree/{published.tag}" if published.tag else published.url
    if published.state == "dry-run":
        return f"Would publish {published.hub_id} as {published.tag}: {len(published.changes)} changes."
    if published.state == "proposed":
        return f"Proposed {published.hub_id}: {published.pull_request}"
    if published.state == "unchanged":
        return f"Unchanged: {address} (commit {(published.commit or '')[:12]})"
    return f"Published {address} (commit {(published.commit or '')[:12]})."
