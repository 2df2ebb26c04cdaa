"""The calibration cache: measurements in a JSON file that says for which network and which data they hold.

Decides when a cache may be used: never in part, and never for another network or other data. It holds distributions, from which every
observer's ranges can be taken. It is also what an interrupted calibration goes on from: it is written now and then, aside and
then moved into place, so that there is a whole file at any time.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcc.errors import DataError, OutputError
from qcc.passes.calibrate.collect import FOLDS, Measurements
from qcc.passes.calibrate.distribution import BINS, Distribution

KIND = "qcc calibration cache"
SETTINGS = {"format": 1, "bins": BINS, "folds": FOLDS}
INTERVAL = 10.0     # seconds between writes; they change what is lost by an interruption, never a result


@dataclass
class Cache:
    """A cache file for one network.

    Attributes:
        model: digest of the network whose values are measured.
        values: their names.
        written: when it was last written, on the monotonic clock.
    """

    path: Path
    model: str
    values: tuple[str, ...]
    written: float = 0.0

    def load(self) -> Measurements | None:
        """What the file holds; None if there is no file.

        Raises:
            DataError: it cannot be read, is no cache, or is one for another network or made with other settings.
        """
        if not self.path.exists():
            self.written = time.monotonic()
            return None
        try:
            content = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"calibration cache {self.path} cannot be read: {error}; delete it, or name another file") from error
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise DataError(f"{self.path} is not a calibration cache, and is not overwritten; name another file")
        for key, wanted in (("settings", SETTINGS), ("model", self.model), ("values", list(self.values))):
            if content.get(key) != wanted:
                raise DataError(f"calibration cache {self.path} was made with another {_NAMES[key]}: expected {_short(wanted)}, "
                                f"got {_short(content.get(key))}; delete it, or name another file")
        try:
            folds = {name: [Distribution.loaded(part) for part in content["folds"][name]] for name in self.values}
            digests = [str(digest) for digest in content["digests"]]
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise DataError(f"calibration cache {self.path} is damaged ({error}); delete it") from error
        self.written = time.monotonic()
        return Measurements(folds, digests, bool(content.get("complete")))

    def keep(self, measured: Measurements) -> None:
        """Write, unless that was done a moment ago."""
        if time.monotonic() - self.written >= INTERVAL:
            self.save(measured)

    def save(self, measured: Measurements) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        folds = {name: [part.dumped() for part in parts] for name, parts in measured.folds.items()}
        content = {"kind": KIND, "settings": SETTINGS, "model": self.model, "values": list(self.values), "complete": measured.complete,
                   "digests": sorted(measured.digests), "folds": folds}
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(content, indent=0) + "\n", "utf-8")
            os.replace(aside, self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise OutputError(f"calibration cache {self.path} cannot be written: {error.strerror or error}") from error
        self.written = time.monotonic()


_NAMES = {"settings": "version of qcc's histograms", "model": "model", "values": "set of quantized values"}


def _short(value: Any) -> str:
    text = value[:16] if isinstance(value, str) else f"{len(value)} values" if isinstance(value, list) else json.dumps(value)
    return str(text)
