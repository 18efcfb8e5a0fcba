#!/usr/bin/env bash
# Finding: img2dataset 1.47.0 compares digests as text, so an index whose digests are in upper case loses every picture as a "hash mismatch".
#
# Behaviour: with verify_hash, the digest that is computed for the downloaded bytes, in lower case, must be the same text as the digest in the index.
#   The same digests in upper case, which other tools write, are all refused: no picture is kept, and the command ends without an error.
# Input: three pictures on a local server, and an index with their correct digests, once in lower case and once in upper case.
# Output seen (Python 3.11, pandas 2.3.3, pyarrow 26.0.1), without the log:
#   lower case: 3 of 3 pictures kept
#   upper case: 0 of 3 pictures kept; failed_to_download: hash mismatch
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


def fetched(name, digests):
    table = pd.DataFrame({"url": urls, "caption": ["a picture"] * 3, "sha256": digests})
    table.to_parquet(f"{name}.parquet")
    download(
        url_list=f"{name}.parquet",
        input_format="parquet",
        url_col="url",
        caption_col="caption",
        output_format="webdataset",
        output_folder=name,
        processes_count=1,
        thread_count=1,
        compute_hash="sha256",
        verify_hash=["sha256", "sha256"],
    )
    return pd.read_parquet(f"{name}/00000.parquet")


if __name__ == "__main__":
    Path("web").mkdir()
    for number in range(3):
        cv2.imwrite(f"web/{number}.png", np.full((8, 8, 3), 50 * number, np.uint8))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scheme = "http"
    urls = [f"{scheme}://127.0.0.1:{server.server_port}/{number}.png" for number in range(3)]
    right = [hashlib.sha256(Path(f"web/{number}.png").read_bytes()).hexdigest() for number in range(3)]
    lower, upper = fetched("lower", right), fetched("upper", [digest.upper() for digest in right])
    kept = [int((table["status"] == "success").sum()) for table in (lower, upper)]
    reasons = {f"{status}: {error}" for status, error in zip(upper["status"], upper["error_message"])}
    print(f"img2dataset {version('img2dataset')}")
    print(f"lower case: {kept[0]} of 3 pictures kept")
    print(f"upper case: {kept[1]} of 3 pictures kept; {'; '.join(sorted(reasons))}")
    same = kept == [3, 0] and reasons == {"failed_to_download: hash mismatch"}
    raise SystemExit(0 if same else "changed: digests are compared regardless of their case now, or not at all")
PY
NO_ALBUMENTATIONS_UPDATE=1 HOME="$folder" "$folder/venv/bin/python" -W ignore finding.py
