"""`xsearch migrate`."""

from dataclasses import asdict
from typing import Annotated

import typer

from xsearch.cli.index import progress_bar
from xsearch.cli.options import DEFAULT_DATA, Device, Json, OwnData
from xsearch.cli.output import account, counted, print_json, say, warn


def migrate_command(
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="NAME", envvar="XSEARCH_MODEL", help="The new encoder; `xsearch models` lists them."
        ),
    ],
    data: OwnData = DEFAULT_DATA,
    device: Device = None,
    json: Json = False,
) -> None:
    """Embed a library anew with another encoder, while it answers.

    The new vectors grow beside the old ones, which answer until all is done; then they change places in one step. Ended
    at any moment, even by kill -9, it goes on from there when it is run again. Items keep their ids, texts, tags and
    all that is known of them; pictures and films are read again from where they are. What is not there any more is
    listed by `xsearch stats --skipped`, and an index run takes it in when it is back. `xsearch serve` goes over by
    itself.
    """
    from xsearch.encoders import get_encoder
    from xsearch.migrate import migrate

    with progress_bar() as (on_progress, on_stage):
        report = migrate(data, get_encoder(model, device), on_progress=on_progress, on_stage=on_stage)
    if report.lost:
        warn(
            f"{counted(report.lost, 'item')} could not go over ({account(report.skipped)}); "
            "`xsearch stats --skipped` names the files"
        )
    if json:
        print_json(asdict(report) | {"seconds": round(report.seconds, 3)})
    else:
        say(
            f"{counted(report.items, 'item')} with vectors of {model}, "
            f"before of {'another version' if report.before == model else report.before}; "
            f"embedded {report.embedded:,} in {report.seconds:.1f} s"
        )
