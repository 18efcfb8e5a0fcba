#!/usr/bin/env bash
# Finding: wordllama 0.4.0.post1 contains its tokenizer, but does not find it: load() downloads the file, and fails without a network.
#
# Behaviour: the wheel has the file in wordllama/tokenizers, and load looks for it in wordllama/tokenizer, without the s. So WordLlama.load() asks
#   the Hugging Face Hub for a file that is already there, on every machine whose cache is empty; with disable_download=True, which the package offers
#   for this case, it raises FileNotFoundError. The weights, in wordllama/weights, are found. With the file's folder as cache_dir it loads.
# Input: the package as it is installed, an empty cache, disable_download=True.
# Output seen (Python 3.11, numpy 2.4.6):
#   in the wheel: tokenizers/l2_supercat_tokenizer_config.json, weights/l2_supercat_256.safetensors
#   load(disable_download=True): FileNotFoundError: Tokenizer file 'l2_supercat_tokenizer_config.json' not found in project root or cache, and downloads are disabled.
#   the same with the folder of the package as cache_dir: 256 numbers
# The script exits with 0 if the behaviour is unchanged, and with an error if it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check wordllama==0.4.0.post1 numpy==2.4.6 tokenizers==0.23.3
HOME="$folder" "$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version
from pathlib import Path

import wordllama

home = Path(wordllama.__file__).parent
print(f"wordllama {version('wordllama')}")
files = sorted(str(path.relative_to(home)) for path in [*home.glob("token*/*.json"), *home.glob("weights/*")])
print(f"in the wheel: {', '.join(files)}")
try:
    wordllama.WordLlama.load(disable_download=True)
    told = "loaded"
except FileNotFoundError as error:
    told = f"{type(error).__name__}: {error}"
print(f"load(disable_download=True): {told}")
size = wordllama.WordLlama.load(disable_download=True, cache_dir=home).embed("a text").shape[1]
print(f"the same with the folder of the package as cache_dir: {size} numbers")
same = "tokenizers/l2_supercat_tokenizer_config.json" in files and told.startswith("FileNotFoundError") and size == 256
raise SystemExit(0 if same else "changed: the file in the package is found now")
PY
