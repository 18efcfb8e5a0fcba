"""Signatures of folders: ours and those of model-signing, each read by the other; every kind of change; and what cannot be checked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("model_signing", reason='pip install "poisonbench[provenance]"')

from model_signing import hashing, signing

from poisonbench.cli import entry
from poisonbench.provenance.signing import verify
from tests.unit.provenance.keys import data, pair

FIVE = ("a.txt", "b.txt", "c.txt", "cats/d.txt", ".hidden")


@pytest.fixture
def signed(tmp_path):
    """Return a signed folder, with its keys and its signature beside it."""
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    assert entry(["provenance", "sign", str(folder), f"key={private}"]) == 0
    return folder, private, public, tmp_path / "data.sig"


def theirs(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command line of model-signing."""
    return subprocess.run([sys.executable, "-m", "model_signing", *map(str, words)], capture_output=True, text=True, timeout=120, check=False)


def swap(folder: Path) -> None:
    one, two = folder / "a.txt", folder / "b.txt"
    first, second = one.read_text(), two.read_text()
    one.write_text(second)
    two.write_text(first)


CHANGES = {
    "changed: a.txt": lambda folder: (folder / "a.txt").write_text("onf\n"),
    "changed: .hidden": lambda folder: (folder / ".hidden").write_text("other"),
    "changed: c.txt, which now has the bytes of cats/d.txt": lambda folder: shutil.copy(folder / "cats" / "d.txt", folder / "c.txt"),
    "added: cats/new.txt": lambda folder: (folder / "cats" / "new.txt").write_text("new"),
    "added: .extra": lambda folder: (folder / ".extra").write_text("new"),
    "removed: cats/d.txt": lambda folder: (folder / "cats" / "d.txt").unlink(),
    "renamed: a.txt to cats/a.txt": lambda folder: (folder / "a.txt").rename(folder / "cats" / "a.txt"),
    "swapped: a.txt and b.txt": swap,
}


def test_a_folder_that_nobody_changed_is_fine(signed, capsys):
    folder, _, public, _ = signed
    assert entry(["provenance", "verify", str(folder), f"key={public}"]) == 0
    assert "fine: all 5 files are as they were when they were signed" in capsys.readouterr().out


@pytest.mark.parametrize("told", CHANGES)
def test_every_kind_of_change_is_named_and_nothing_else(signed, capsys, told):
    folder, _, public, _ = signed
    CHANGES[told](folder)
    capsys.readouterr()
    assert entry(["provenance", "verify", str(folder), f"key={public}"]) == 1
    first, *lines = capsys.readouterr().out.splitlines()
    assert "altered" in first
    assert [line.strip().partition(" (digest")[0] for line in lines] == [told]


def test_the_command_of_model_signing_accepts_our_signature_and_sees_a_change(signed):
    folder, _, public, signature = signed
    words = ("verify", "key", folder, "--signature", signature, "--public_key", public)
    done = theirs(*words)
    assert done.returncode == 0, done.stderr
    (folder / "a.txt").write_text("other")
    assert theirs(*words).returncode == 1


@pytest.mark.parametrize("inside", [False, True])
def test_we_accept_a_signature_that_the_command_of_model_signing_made(tmp_path, inside):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    signature = folder / "model.sig" if inside else tmp_path / "model.sig"
    done = theirs("sign", "key", folder, "--signature", signature, "--private_key", private)
    assert done.returncode == 0, done.stderr
    assert verify(folder, public, signature).state == "fine"
    (folder / "a.txt").write_text("other")
    assert verify(folder, public, signature).state == "altered"


def test_a_signature_that_is_kept_inside_the_folder_is_no_file_of_the_set(tmp_path):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    inside = folder / "data.sig"
    assert entry(["provenance", "sign", str(folder), f"key={private}", f"signature={inside}"]) == 0
    assert verify(folder, public, inside).state == "fine"
    assert theirs("verify", "key", folder, "--signature", inside, "--public_key", public).returncode == 0
    assert entry(["provenance", "sign", str(folder), f"key={private}", f"signature={inside}"]) == 0, "signing again replaces it"
    assert verify(folder, public, inside).state == "fine"


def test_a_signature_that_is_moved_into_the_folder_later_is_no_file_of_the_set(signed):
    folder, _, public, signature = signed
    signature.rename(folder / "moved.sig")
    assert verify(folder, public, folder / "moved.sig").state == "fine"


def test_the_folder_may_have_another_name_and_place(signed, tmp_path):
    folder, _, public, signature = signed
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(folder, moved)
    assert verify(moved, public, signature).state == "fine"


@pytest.mark.parametrize("name", ["link", ".", "cats/.."])
def test_the_folder_may_be_given_by_a_link_or_a_relative_path(tmp_path, monkeypatch, name):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path if name == "link" else folder)
    assert entry(["provenance", "sign", name, f"key={private}"]) == 0
    assert (tmp_path / ("link.sig" if name == "link" else "data.sig")).is_file()
    assert entry(["provenance", "verify", name, f"key={public}"]) == 0


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_the_three_curves_work(tmp_path, kind):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine", kind)
    assert entry(["provenance", "sign", str(folder), f"key={private}"]) == 0
    assert verify(folder, public, tmp_path / "data.sig").state == "fine"


def test_another_key_is_said_to_be_another_key(signed, tmp_path, capsys):
    folder, _, _, _ = signed
    _, other = pair(tmp_path, "other")
    assert entry(["provenance", "verify", str(folder), f"key={other}"]) == 2
    assert "could not check: signed by another key" in capsys.readouterr().out


def edited(signature: Path, change) -> None:
    """Change the signed list of a signature, and leave its signature as it is."""
    import base64

    bundle = json.loads(signature.read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    change(payload)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    signature.write_text(json.dumps(bundle))


def test_a_list_that_was_changed_to_fit_changed_files_is_not_accepted(signed):
    folder, _, public, signature = signed
    (folder / "a.txt").unlink()
    edited(signature, lambda payload: payload["predicate"]["resources"].pop(1))
    checked = verify(folder, public, signature)
    assert checked.state == "altered"
    assert "its list of files was changed after it was signed" in checked.sentence


def test_a_signature_of_another_key_that_claims_to_be_ours_is_not_accepted(signed, tmp_path):
    folder, _, public, signature = signed
    mine = json.loads(signature.read_text())
    private, _ = pair(tmp_path, "other")
    assert entry(["provenance", "sign", str(folder), f"key={private}"]) == 0
    forged = json.loads(signature.read_text())
    forged["verificationMaterial"] = mine["verificationMaterial"]
    signature.write_text(json.dumps(forged))
    assert verify(folder, public, signature).state == "altered"


def test_an_old_signature_without_the_name_of_its_key_is_checked_and_prints_nothing(signed, capsys):
    folder, _, public, signature = signed
    bundle = json.loads(signature.read_text())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    signature.write_text(json.dumps(bundle))
    capsys.readouterr()
    assert verify(folder, public, signature).state == "fine"
    assert not capsys.readouterr().out


@pytest.mark.parametrize("changed", [False, True])
def test_a_signature_by_shards_could_not_be_checked_whether_files_changed_or_not(tmp_path, changed):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    config = hashing.Config().use_shard_serialization(shard_size=2)
    signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=private).sign(folder, tmp_path / "data.sig")
    if changed:
        (folder / "a.txt").write_text("other")
    checked = verify(folder, public, tmp_path / "data.sig")
    assert checked.state == "could not check"
    assert "shards" in checked.sentence


@pytest.mark.parametrize("algorithm", ["blake2", "blake3"])
def test_other_hash_functions_of_model_signing_are_checked(tmp_path, algorithm):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    config = hashing.Config().use_file_serialization(hashing_algorithm=algorithm)
    signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=private).sign(folder, tmp_path / "data.sig")
    assert verify(folder, public, tmp_path / "data.sig").state == "fine"
    swap(folder)
    assert verify(folder, public, tmp_path / "data.sig").differences.swapped == (("a.txt", "b.txt"),)


def test_the_signature_of_another_folder_is_said_to_be_one(signed, tmp_path, capsys):
    _, _, public, signature = signed
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text("six")
    assert entry(["provenance", "verify", str(other), f"key={public}", f"signature={signature}"]) == 2
    assert "could not check: this looks like the signature of another folder: none of the 5 signed files" in capsys.readouterr().out


BROKEN = {
    "nothing": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "not a signature",
    "other JSON": lambda text: "[1, 2]",
    "no envelope": lambda text: '{"verificationMaterial": {"publicKey": {"hint": ""}}}',
    "a certificate": lambda text: text.replace('"publicKey"', '"certificate"'),
    "another media type": lambda text: text.replace("bundle.v0.3", "bundle.v9.9"),
    "too deep": lambda text: "[" * 101 + "]" * 101,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_is_no_signature_could_not_be_checked(signed, how):
    folder, _, public, signature = signed
    signature.write_text(BROKEN[how](signature.read_text()))
    assert verify(folder, public, signature).state == "could not check"


@pytest.mark.parametrize(("what", "told"), [
    ({"key": "rsa"}, "a key of the kind RSA"),
    ({"key": "ed25519"}, "a key of the kind Ed25519"),
    ({"key": "secp256k1"}, "a key on the curve secp256k1"),
    ({"swapped": True}, "this is a p"),
    ({"text": "no key"}, "this is no key in PEM form"),
    ({"missing": True}, "cannot be read"),
])  # fmt: skip
@pytest.mark.parametrize("action", ["sign", "verify"])
def test_a_key_of_the_wrong_kind_is_one_sentence_and_nothing_is_written(tmp_path, capsys, action, what, told):
    folder, mine = data(tmp_path), pair(tmp_path, "mine")
    if action == "verify":
        assert entry(["provenance", "sign", str(folder), f"key={mine[0]}"]) == 0
    pairs = pair(tmp_path, "wrong", what.get("key", "P-256"))
    key = pairs[(action == "verify") ^ what.get("swapped", False)]
    if "text" in what:
        key.write_text(what["text"])
    if "missing" in what:
        key = tmp_path / "missing.pem"
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert entry(["provenance", action, str(folder), f"key={key}"]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_key_with_a_password_is_refused_with_the_way_out(tmp_path, capsys):
    private, _ = pair(tmp_path, "mine", password="secret")
    assert entry(["provenance", "sign", str(data(tmp_path)), f"key={private}"]) == 2
    assert "has a password" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["sign", "verify"])
def test_a_key_inside_the_folder_is_refused(signed, capsys, action):
    folder, private, public, _ = signed
    inside = folder / "key.pem"
    shutil.copy(private if action == "sign" else public, inside)
    assert entry(["provenance", action, str(folder), f"key={inside}"]) == 2
    assert "lies in the folder" in capsys.readouterr().err


def test_a_folder_with_a_link_is_not_signed_and_a_link_that_comes_later_is_named(signed, tmp_path, capsys):
    folder, private, public, signature = signed
    before = signature.read_bytes()
    (folder / "a.txt").rename(tmp_path / "a.txt")
    (folder / "a.txt").symlink_to(tmp_path / "a.txt")
    assert entry(["provenance", "sign", str(folder), f"key={private}"]) == 2
    assert "is a link or a special file" in capsys.readouterr().err
    assert signature.read_bytes() == before
    checked = verify(folder, public, signature)
    assert (checked.state, checked.links, bool(checked.differences)) == ("altered", ("a.txt",), False)


def test_a_folder_without_files_is_not_signed(tmp_path, capsys):
    private, _ = pair(tmp_path, "mine")
    (tmp_path / "empty" / "below").mkdir(parents=True)
    assert entry(["provenance", "sign", str(tmp_path / "empty"), f"key={private}"]) == 2
    assert "contains no files" in capsys.readouterr().err
    assert entry(["provenance", "sign", str(tmp_path / "missing"), f"key={private}"]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.sig"))


def test_a_name_that_is_no_text_is_refused(tmp_path, capsys):
    folder, (private, _) = data(tmp_path), pair(tmp_path, "mine")
    with open(os.path.join(os.fsencode(folder), b"caf\xe9"), "wb"):
        pass
    assert entry(["provenance", "sign", str(folder), f"key={private}"]) == 2
    assert "not valid UTF-8" in capsys.readouterr().err


def test_files_of_git_are_not_covered_and_named(tmp_path, capsys):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    assert entry(["provenance", "sign", str(folder), f"key={private}"]) == 0
    (folder / ".git" / "config").write_text("y")
    capsys.readouterr()
    assert entry(["provenance", "verify", str(folder), f"key={public}"]) == 0
    assert "not covered, so not checked: .git/config" in capsys.readouterr().out


def test_another_file_is_not_replaced_by_a_signature(tmp_path, capsys):
    folder, (private, _) = data(tmp_path), pair(tmp_path, "mine")
    assert entry(["provenance", "sign", str(folder), f"key={private}", f"signature={folder / 'a.txt'}"]) == 2
    assert "this file exists and is no signature" in capsys.readouterr().err
    assert (folder / "a.txt").read_text() == "one\n"


def test_several_threads_sign_and_find_the_same(signed, tmp_path, capsys):
    folder, private, public, signature = signed
    assert entry(["provenance", "sign", str(folder), f"key={private}", "threads=3", f"signature={tmp_path / 'three.sig'}"]) == 0
    payloads = [json.loads(path.read_text())["dsseEnvelope"]["payload"] for path in (signature, tmp_path / "three.sig")]
    assert payloads[0] == payloads[1]
    swap(folder)
    assert verify(folder, public, signature, threads=3) == verify(folder, public, signature)
    assert entry(["provenance", "verify", str(folder), f"key={public}", "threads=0"]) == 2
    assert "give a number from 1" in capsys.readouterr().err


def test_an_unknown_hash_function_could_not_be_checked(tmp_path, monkeypatch):
    folder, (private, public) = data(tmp_path), pair(tmp_path, "mine")
    from model_signing import manifest

    monkeypatch.setattr(
        manifest._FileSerialization, "serialization_parameters", property(lambda self: {"method": "files", "hash_type": "md9", "allow_symlinks": False})
    )
    signing.Config().set_hashing_config(hashing.Config()).use_elliptic_key_signer(private_key=private).sign(folder, tmp_path / "data.sig")
    monkeypatch.undo()
    assert verify(folder, public, tmp_path / "data.sig").state == "could not check"


def test_a_missing_signature_is_one_sentence(tmp_path, capsys):
    folder, (_, public) = data(tmp_path), pair(tmp_path, "mine")
    assert entry(["provenance", "verify", str(folder), f"key={public}"]) == 2
    assert "name the signature with signature=FILE" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["sing"], ["sign"], ["sign", "data"], ["sign", "key=x"], ["sign", "a", "b", "key=x"], ["verify", "data", "key="]])
def test_wrong_words_are_one_sentence(capsys, words):
    assert entry(["provenance", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("poisonbench: provenance")
    assert len(said.splitlines()) == 1


def test_without_the_library_the_sentence_names_the_extra(tmp_path):
    code = "import sys; sys.modules['model_signing'] = None\nfrom poisonbench.cli import entry\nraise SystemExit(entry(sys.argv[1:]))"
    private, _ = pair(tmp_path, "mine")
    done = subprocess.run(
        [sys.executable, "-c", code, "provenance", "sign", str(data(tmp_path)), f"key={private}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("poisonbench: signatures need the package model-signing")
    assert 'pip install "poisonbench[provenance]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def replaced(path: Path) -> None:
    """Put a folder with a file in the place of a file."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "new.txt").write_text("new")


@pytest.mark.parametrize("name", ["data.sig", ".gitignore"])
def test_a_folder_in_the_place_of_a_file_that_the_signature_leaves_out_could_not_be_checked(tmp_path, capsys, name):
    folder, (private, public), copy = data(tmp_path), pair(tmp_path, "mine"), tmp_path / "copy.sig"
    assert entry(["provenance", "sign", str(folder), f"key={private}", f"signature={folder / 'data.sig'}"]) == 0
    shutil.copy(folder / "data.sig", copy)
    words = ["provenance", "verify", str(folder), f"key={public}", f"signature={copy}"]
    assert entry(words) == 0
    replaced(folder / name)
    capsys.readouterr()
    assert entry(words) == 2
    first, *lines = capsys.readouterr().out.splitlines()
    assert f"could not check: {folder / name} is a folder, but the signature leaves this path out" in first
    assert f"  not covered, so not checked: {name}/new.txt" in lines
    (folder / "a.txt").write_text("other")
    assert entry(words) == 1, "a changed file is a finding of its own"
    assert "changed: a.txt" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["sign", "verify"])
def test_a_folder_in_place_of_the_signature_is_refused(signed, tmp_path, capsys, action):
    folder, private, public, _ = signed
    key = private if action == "sign" else public
    assert entry(["provenance", action, str(folder), f"key={key}", f"signature={tmp_path}"]) == 2
    assert f"signature={tmp_path} is no file" in capsys.readouterr().err


def test_a_signature_of_no_files_could_not_be_checked(signed, tmp_path, capsys):
    folder, private, public, _ = signed
    (tmp_path / "empty").mkdir()
    done = theirs("sign", "key", tmp_path / "empty", "--signature", tmp_path / "empty.sig", "--private_key", private)
    assert done.returncode == 0, done.stderr
    assert entry(["provenance", "verify", str(folder), f"key={public}", f"signature={tmp_path / 'empty.sig'}"]) == 2
    assert "lists no files" in capsys.readouterr().out


def test_a_missing_public_key_is_told_how_to_make_a_public_one(signed, tmp_path, capsys):
    folder, _, _, _ = signed
    assert entry(["provenance", "verify", str(folder), f"key={tmp_path / 'no.pem'}"]) == 2
    assert "make one with: openssl ec -in private.pem -pubout -out public.pem" in capsys.readouterr().err
