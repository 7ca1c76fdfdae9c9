"""`xsearch stats`, `verify`, `forget` and `models`: looking after a library."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from xsearch.cli import BROKEN
from xsearch.cli.options import DEFAULT_DATA, Data, Json
from xsearch.cli.output import account, listing, print_json, size, warn

NOTHING_KNOWN = 1


def stats_command(
    data: Data = DEFAULT_DATA,
    skipped: Annotated[bool, typer.Option("--skipped", help="Name every skipped file with its reason.")] = False,
    json: Json = False,
) -> None:
    """Tell what the library holds, how it is searched, and the recall that was measured."""
    from xsearch.library import Library
    from xsearch.maintenance import stats

    found = stats(data)
    if skipped:
        found["skipped_files"] = [asdict(entry) for entry in Library.open(data).skipped()]
    if json:
        print_json(found)
        return
    items = ", ".join(f"{found['items'][kind]:,} {kind}" for kind in ("image", "frame", "text") if found["items"][kind])
    listing(
        [
            ("library", f"{found['data']}: {size(found['bytes'])} in {found['shards']} shards"),
            ("items", items or "none"),
            ("encoder", f"{found['encoder']}, {found['dim']} dimensions"),
            ("index", _index_line(found["index"])),
            *[(f"recall@10 {modality}", line) for modality, line in _recall_lines(found["index"])],
            ("skipped", account(found["skipped"]) or "none"),
        ]
    )
    for entry in found.get("skipped_files", []):
        print(f"  {entry['path']}: {entry['reason']}{': ' if entry['detail'] else ''}{entry['detail']}")


def verify_command(
    data: Data = DEFAULT_DATA,
    repair: Annotated[bool, typer.Option("--repair", help="Make whole what can be made whole.")] = False,
    json: Json = False,
) -> None:
    """Check every shard against its checksum, the counts, and the index against the shards."""
    from xsearch import maintenance

    done = maintenance.repair(data) if repair else []
    faults = maintenance.verify(data)
    if json:
        print_json({"clean": not faults, "faults": [asdict(fault) for fault in faults], "repaired": done})
    else:
        for line in done:
            print(f"repaired: {line}")
        for fault in faults:
            print(f"{fault.file}: {fault.what}")
        if not faults:
            print("clean")
    if faults:
        warn("the library is damaged; `xsearch verify --repair` mends what can be mended")
        raise typer.Exit(BROKEN)


def forget_command(
    path: Annotated[Path, typer.Argument(help="A file, or a folder with all below it.")],
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Remove a file or folder from the library. The files stay, and indexing their folder finds them again."""
    from xsearch.maintenance import forget

    removed = forget(data, path.resolve())
    if json:
        print_json({"removed": removed})
    elif removed:
        print(f"removed {removed:,} files from the library")
    else:
        print(f"the library knows nothing at {path}")
    if not removed:
        raise typer.Exit(NOTHING_KNOWN)


def models_command(json: Json = False) -> None:
    """List the encoders that can be named with --model."""
    from importlib.util import find_spec

    from xsearch.encoders.presets import PRESETS

    ready = all(find_spec(name) for name in ("torch", "open_clip"))
    models = [
        {"name": "builtin", "model": "builtin", "what": "384-d, 224 px, 40 MB, in the package; English", "ready": True},
        *({"name": p.name, "model": p.model, "what": p.what, "ready": ready} for p in PRESETS.values()),
    ]
    if json:
        print_json({"models": models})
        return
    listing([(str(model["name"]), f"{model['what']}{_alias(model)}") for model in models])
    print(
        "any other model of open_clip: --model openclip:ARCHITECTURE/PRETRAINED, or openclip:ARCHITECTURE/CHECKPOINT.pt"
    )
    if not ready:
        print("all but the built-in one need torch and open_clip: `pip install 'xsearch[clip]'`")


def _alias(model: dict[str, Any]) -> str:
    return "" if model["model"] == model["name"] else f" ({model['model']})"


def _index_line(index: dict[str, Any]) -> str:
    if index["kind"] == "exact":
        return "exact: every query is compared with every vector"
    return (
        f"{index['kind']} of {index['rows']:,} vectors, {index['nlist']:,} lists, {size(index['bytes'])}, "
        f"built in {index['build_s']} s"
    )


def _recall_lines(index: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            modality,
            f"{s['recall']:.3f} (at least {s['recall_low']:.3f} with 95 % confidence, {s['queries']:,} queries; target "
            f"{s['target']}), nprobe {s['nprobe']}, depth {s['depth']}",
        )
        for modality, s in index.get("settings", {}).items()
    ]
