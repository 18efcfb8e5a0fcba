#!/usr/bin/env bash
# Finding: the digests that img2dataset 1.47.0 writes beside its pictures are not those of the pictures that it stores, with its default settings.
#
# Behaviour: the column sha256 of 00000.parquet is computed for the downloaded bytes; what is stored in 00000.tar is scaled and encoded again as JPEG.
#   So no stored picture can be compared with its digest, also if it already has the size that is asked for, or with resize_mode "no". Only with
#   disable_all_reencoding as well are the bytes those of the digest.
# Input: three pictures of 256x256, which is the default size, on a local server; they are fetched with three settings.
# Output seen (Python 3.11, pandas 2.3.3, pyarrow 26.0.1), without the log:
#   by default: 0 of 3 stored pictures have the digest beside them
#   resize_mode=no: 0 of 3 stored pictures have the digest beside them
#   resize_mode=no, disable_all_reencoding: 3 of 3 stored pictures have the digest beside them
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check img2dataset==1.47.0 pandas==2.3.3 pyarrow==26.0.1 numpy==2.4.6
mkdir "$folder/data"
cd "$folder/data"
cat > finding.py <<'PY'
import hashlib
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from img2dataset import download


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def equal(name, **settings):
    download(
        url_list="index.parquet",
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        output_format="webdataset",
        output_folder=name,
        processes_count=1,
        thread_count=1,
        compute_hash="sha256",
        **settings,
    )
    told = pd.read_parquet(f"{name}/00000.parquet").set_index("key")["sha256"]
    with tarfile.open(f"{name}/00000.tar") as tar:
        stored = {info.name[:9]: tar.extractfile(info).read() for info in tar if info.name.endswith(".jpg")}
    assert len(stored) == 3, "all pictures are fetched"
    return sum(hashlib.sha256(content).hexdigest() == told[key] for key, content in stored.items())


if __name__ == "__main__":
    Path("web").mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(f"web/{number}.jpg", noise.integers(0, 255, (256, 256, 3), dtype=np.uint8))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scheme = "http"
    urls = [f"{scheme}://127.0.0.1:{server.server_port}/{number}.jpg" for number in range(3)]
    pd.DataFrame({"url": urls, "caption": ["a picture"] * 3}).to_parquet("index.parquet")
    found = {
        "by default": equal("default"),
        "resize_mode=no": equal("unscaled", resize_mode="no"),
        "resize_mode=no, disable_all_reencoding": equal("kept", resize_mode="no", disable_all_reencoding=True),
    }
    print(f"img2dataset {version('img2dataset')}")
    for name, count in found.items():
        print(f"{name}: {count} of 3 stored pictures have the digest beside them")
    raise SystemExit(0 if [*found.values()] == [0, 0, 3] else "changed: the digests are those of the stored pictures now, or the encoding has changed")
PY
NO_ALBUMENTATIONS_UPDATE=1 HOME="$folder" "$folder/venv/bin/python" -W ignore finding.py
