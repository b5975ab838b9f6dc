"""Makes docs/dashboard.png, and measures how soon the dashboard shows something in a headless Chromium.

    .venv/bin/python docs/make_dashboard.py picture
    .venv/bin/python docs/make_dashboard.py measure --entries 1000000 [--ledger FILE]

What is measured is what the browser's performance API says: the first contentful paint, and the time until all figures
are there, of a gateway that has just been started (cold) and at the next look (warm).
"""

from __future__ import annotations

import argparse
import base64
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from fixtures.chromium import Chromium, Tab  # noqa: E402
from fixtures.office import fill  # noqa: E402
from fixtures.serving import Served, serving  # noqa: E402

from smallfirst.router import Gateway  # noqa: E402
from smallfirst.router.cli.bench_ledger import sample_entries  # noqa: E402
from smallfirst.router.ledger import Ledger  # noqa: E402
from smallfirst.router.settings import CloudModelSettings, LedgerSettings, Settings  # noqa: E402

PICTURE = ROOT / "docs" / "dashboard.png"
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
PIXELS = """(async () => {
  const image = new Image(); image.src = "data:image/png;base64,%s"; await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const data = pen.getImageData(0, 0, image.width, image.height).data, parts = [];
  for (let at = 0; at < data.length; at += 30000) parts.push(String.fromCharCode(...data.subarray(at, at + 30000)));
  return [[image.width, image.height], btoa(parts.join(""))];
})()"""
COMPLETE = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def picture(browser: Chromium, folder: Path) -> None:
    """Write the picture of a week of an office."""
    fill(folder / "ledger.db", 20_000, time.time())
    with serving(_gateway(folder / "ledger.db")) as served:
        tab, connection, identity = browser.tab()
        tab.looks(width=1160, height=1290)
        tab.call("Emulation.setScrollbarsHidden", hidden=True)
        _look(tab, served, "7d")
        tab.wait("document.getElementById('state').textContent === 'Live'")
        tab.picture(PICTURE, whole=False)
        _shrink(tab, PICTURE)
        browser.close_tab(identity)
        connection.close()
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} kB")


def measure(browser: Chromium, ledger: Path, entries: int) -> None:
    """Print milliseconds for each range."""
    if not ledger.exists():
        made = Ledger(LedgerSettings(path=ledger, max_pending=10_000_000))
        for at, entry in enumerate(sample_entries(entries, time.time()), 1):
            made.record(entry)
            if at % 50_000 == 0:
                made.flush()
        made.close()
    for span in ("24h", "7d", "all"):
        with serving(_gateway(ledger)) as served:
            for state in ("cold", "warm"):
                tab, connection, identity = browser.tab()
                tab.looks()
                painted, complete = _look(tab, served, span)
                print(
                    f"{span:>4} {state}: first contentful paint {painted:.0f} ms, all figures {complete:.0f} ms"
                )
                browser.close_tab(identity)
                connection.close()


def _shrink(tab: Tab, file: Path) -> None:
    """Write a picture anew with its 256 most frequent colours; the others become the nearest of these."""
    tab.open("about:blank")
    size, encoded = tab.run(PIXELS % base64.b64encode(file.read_bytes()).decode())
    pixels = np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(size[1], size[0], 4)[..., :3]
    colours, place, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    palette = colours[np.argsort(-counts)[:256]].astype(np.int32)
    nearest = np.array([np.abs(palette - colour).sum(axis=1).argmin() for colour in colours.astype(np.int32)])
    rows = nearest.astype(np.uint8)[place.reshape(-1)].reshape(size[1], size[0])
    # Each row begins with the number of its filter: none.
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes(), 9)
    header = struct.pack(">IIBBBBB", *size, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", data),
        (b"IEND", b""),
    )
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in chunks
        )
    )


def _gateway(ledger: Path) -> Gateway:
    cloud = CloudModelSettings(name="gpt-4.1", kind="openai", base_url="http://127.0.0.1:9/v1")
    return Gateway(Settings(models=(cloud,), ledger=LedgerSettings(path=ledger)))


def _look(tab: Tab, served: Served, span: str) -> tuple[float, float]:
    tab.open(f"{served.root}/dashboard?range={span}")
    return tab.wait(PAINTED), tab.wait(COMPLETE)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("picture", "measure"))
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--ledger", type=Path, help="made where it is not there; default: a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        browser = Chromium("chromium", folder / "profile")
        try:
            if chosen.what == "picture":
                picture(browser, folder)
            else:
                measure(browser, chosen.ledger or folder / "ledger.db", chosen.entries)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
