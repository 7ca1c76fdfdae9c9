"""`xsearch stats`, `verify`, `forget` and `models`: looking after a library."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from xsearch.cli import BROKEN
from xsearch.cli.options import DEFAULT_DATA, AnyData, Data, Json, OwnData, to_read, to_write
from xsearch.cli.output import account, counted, listing, print_json, say, size, warn
from xsearch.errors import repair_command

NOTHING_KNOWN = 1


def stats_command(
    data: Data = DEFAULT_DATA,
    skipped: Annotated[bool, typer.Option("--skipped", help="Name every skipped file with its reason.")] = False,
    json: Json = False,
) -> None:
    """Tell what the library holds and the recall that was measured."""
    from xsearch.library import Library
    from xsearch.maintenance import stats

    found = stats(data)
    if skipped:
        found["skipped_files"] = [asdict(entry) for entry in Library.open(data).skipped()]
    if json:
        print_json(found)
        return
    of_kinds = [(kind, found["items"][kind]) for kind in ("image", "frame", "text")]
    items = ", ".join(counted(count, kind) for kind, count in of_kinds if count)
    listing(
        [
            ("library", f"{found['data']}: {size(found['bytes'])} in {counted(found['shards'], 'shard')}"),
            ("items", items or "none"),
            ("encoder", f"{found['encoder']}, {found['dim']} dimensions"),
            ("index", _index_line(found["index"])),
            *[(f"recall@10 {modality}", line) for modality, line in _recall_lines(found["index"])],
            ("faiss", _faiss_line(found["faiss"])),
            ("skipped", account(found["skipped"]) or "none"),
        ]
    )
    for entry in found.get("skipped_files", []):
        say(f"  {entry['path']}: {entry['reason']}{': ' if entry['detail'] else ''}{entry['detail']}")


def verify_command(
    data: AnyData = str(DEFAULT_DATA),
    repair: Annotated[bool, typer.Option("--repair", help="Make whole what can be made whole.")] = False,
    json: Json = False,
) -> None:
    """Check the library against its checksums.

    Every shard is read, the items are counted, and the index is compared with the shards.
    """
    from xsearch import maintenance
    from xsearch.library.remote import is_remote

    done = maintenance.repair(to_write(data)) if repair else []
    folder = to_read(data)
    faults = maintenance.verify(folder)
    if json:
        print_json({"clean": not faults, "faults": [asdict(fault) for fault in faults], "repaired": done})
    else:
        for line in done:
            say(f"repaired: {line}")
        for fault in faults:
            say(f"{fault.file}: {fault.what}")
        if not faults:
            say("clean")
    if faults:
        if is_remote(data):
            warn(f"what was fetched of the library is damaged; remove {folder}, and it is fetched anew")
        else:
            warn(f"the library is damaged; {repair_command(data)} mends what can be mended")
        raise typer.Exit(BROKEN)


def optimize_command(data: OwnData = DEFAULT_DATA, json: Json = False) -> None:
    """Rewrite the library as if it were made at once.

    Nothing removed is left, small shards are merged, the index is trained anew. Queries go on meanwhile. It is never
    needed for right answers, and index runs do most of it when it pays: run it after large removals, or when a library
    has grown a lot since its index was trained.
    """
    from xsearch.maintenance import optimize

    before, after = optimize(data, on_stage=warn)
    if json:
        print_json({"before": before, "after": after})
        return
    rows = [
        ("size", size(before["bytes"]), size(after["bytes"])),
        ("shards", str(before["shards"]), str(after["shards"])),
        ("removed rows", f"{before['removed_rows']:,}", f"{after['removed_rows']:,}"),
        ("index", _index_line(before["index"]), _index_line(after["index"])),
        *(
            (f"recall@10 {modality}", *(f"{found['index']['recall'][modality]:.3f}" for found in (before, after)))
            for modality in after["index"]["recall"]
        ),
    ]
    listing([(name, f"{was} -> {now}" if was != now else now) for name, was, now in rows])


def forget_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a folder with all below it.")],
    data: OwnData = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Remove a file or folder from the library. The files stay, and indexing their folder finds them again."""
    from xsearch.maintenance import forget

    # A link is known by its own name when it was found below a source, and the source itself by where it leads.
    removed = forget(data, Path(os.path.normpath(path.absolute()))) or forget(data, Path(os.path.realpath(path)))
    if json:
        print_json({"removed": removed})
    elif removed:
        say(f"removed {counted(removed, 'file')} from the library")
    else:
        say(f"the library knows nothing at {path}")
    if not removed:
        raise typer.Exit(NOTHING_KNOWN)


def models_command(json: Json = False) -> None:
    """List the encoders that can be named with --model."""
    from importlib.util import find_spec

    from xsearch.encoders.presets import PRESETS

    ready = all(find_spec(name) for name in ("torch", "open_clip"))
    models = [
        {"name": "builtin", "model": "builtin", "what": "384-d, 256 px, 36 MB, in the package; English", "ready": True},
        {
            "name": "crops:builtin",
            "model": "crops:builtin",
            "what": "the same, as the mean of a picture and its corners: finds more, and indexes five times slower",
            "ready": True,
        },
        *({"name": p.name, "model": p.model, "what": p.what, "ready": ready} for p in PRESETS.values()),
    ]
    if json:
        print_json({"models": models})
        return
    listing([(str(model["name"]), f"{model['what']}{_alias(model)}") for model in models])
    say(
        "any other model of open_clip: --model openclip:ARCHITECTURE/PRETRAINED, or openclip:ARCHITECTURE/CHECKPOINT.pt"
    )
    say("the mean of a picture and its corners, with any of them: --model crops:NAME")
    if not ready:
        say("all but the built-in one need torch and open_clip: `pip install 'xsearch[clip]'`")


def _alias(model: dict[str, Any]) -> str:
    return "" if model["model"] == model["name"] else f" ({model['model']})"


def _index_line(index: dict[str, Any]) -> str:
    if index["kind"] == "exact":
        return "exact: every query is compared with every vector"
    return (
        f"{index['kind']} of {index['rows']:,} vectors, {index['nlist']:,} lists, {size(index['bytes'])}, "
        f"{index['hot_bytes'] / index['rows']:.0f} bytes a vector, trained on {index['trained_rows']:,} in "
        f"{index['build_s']} s"
    )


def _faiss_line(faiss: dict[str, Any]) -> str:
    if len(faiss["distributions"]) > 1:
        both = " ".join(faiss["distributions"])
        return f"{both} overwrite one another: `pip uninstall -y {both}`, then install one of them"
    gpus = counted(faiss["n_gpus"], "GPU") if faiss["n_gpus"] else "no GPU"
    return f"{faiss['version']}, {' '.join(faiss['distributions'])}, {gpus}"


def _recall_lines(index: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            modality,
            f"{s['recall']:.3f} (at least {s['recall_low']:.3f} with 95 % confidence, {s['queries']:,} queries; target "
            f"{s['target']}), nprobe {s['nprobe']}, depth {s['depth']}",
        )
        for modality, s in index.get("settings", {}).items()
    ]
