"""Thetas on the Hugging Face hub, which a small server on this machine stands in for."""

import base64
import hashlib
import http.server
import json
import re
import sys
import threading

import pytest

import comm_lopt
from comm_lopt.cli import main
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.pretrained.hub import push
from comm_lopt.theta import ThetaError, theta_file

pytestmark = pytest.mark.usefixtures("ordinary_promotion")

REPO = "somebody/lopt"
TOKEN = "hf_secret"


class Hub(http.server.ThreadingHTTPServer):
    """What the hub answers, as far as it is asked here: repositories as commits, by name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("localhost", 0), _Answers)
        self.repositories = {}
        self.created, self.asked, self.refuses = [], [], None

    @property
    def endpoint(self):
        return f"http://localhost:{self.server_port}"

    def commit(self, repo, files):
        commits = self.repositories.setdefault(repo, {})
        oid = hashlib.sha1(repr((len(commits), sorted(files))).encode()).hexdigest()
        commits[oid] = {**(self.files(repo, "main") or {}), **files}
        return oid

    def resolved(self, repo, revision):
        commits = self.repositories.get(repo) or {}
        return list(commits)[-1] if revision == "main" and commits else revision

    def files(self, repo, revision):
        return self.repositories.get(repo, {}).get(self.resolved(repo, revision))


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self._note()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses:
            self._answer({"error": "no"}, self.server.refuses)
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            told = json.loads(body)
            self.server.created.append(told)
            name = f"{told['organization']}/{told['name']}"
            self.server.repositories.setdefault(name, {})
            self._answer({"url": f"{self.server.endpoint}/{name}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            oid = self.server.commit(found[1], files)
            url = f"{self.server.endpoint}/{found[1]}/commit/{oid}"
            self._answer({"commitUrl": url, "commitOid": oid})

    def do_GET(self):
        self._note()
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repo, revision = found[1], found[2] or "main"
            files = self.server.files(repo, revision)
            if files is None:
                there = repo in self.server.repositories
                self._answer({}, 404, "RevisionNotFound" if there else "RepoNotFound")
                return
            siblings = [{"rfilename": name, "size": len(files[name])} for name in files]
            sha = self.server.resolved(repo, revision)
            self._answer({"id": repo, "sha": sha, "siblings": siblings})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            content = self.server.files(found[1], found[2])[found[3]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._answer(content, more={"ETag": etag, "X-Repo-Commit": found[2]})
        else:
            self._answer({}, 404)

    do_HEAD = do_GET

    def _note(self):
        self.server.asked.append((self.path, self.headers.get("authorization")))

    def _answer(self, content, code=200, error=None, more=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"X-Error-Code": error, **(more or {})}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        # As HF_ENDPOINT sets them, before the library is imported.
        resolve = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pushed_is_what_is_pulled(hub, small, small_folder, tmp_path, capfd):
    assert main(["pretrained", small, "--push", REPO, "--private"]) == 0
    (name,) = re.findall(rf"published as (hf://{REPO}@[0-9a-f]+)", capfd.readouterr().out)
    (created,) = hub.created
    assert (created["organization"], created["name"]) == ("somebody", "lopt")
    assert "private" in [*created, *created.values()]
    found, here = comm_lopt.load(name), comm_lopt.load(small)
    assert (found.name, found.card, found.file["sha256"]) == (small, here.card, here.file["sha256"])
    # As to a folder, for a machine without the hub; and as any --theta.
    assert main(["pretrained", f"hf://{REPO}", "--out_dir", str(tmp_path / "mine")]) == 0
    copied = files_of(tmp_path / "mine")
    for file, content in files_of(small_folder).items():
        assert file == "README.md" or copied[file] == content
    method = method_of_theta(f"mine=hf://{REPO}:local_opt=local_sgd")
    assert (method.label, method.theta["sha256"]) == ("mine", here.file["sha256"])
    captured = capfd.readouterr()
    assert TOKEN not in captured.out + captured.err
    assert f"Bearer {TOKEN}" in {token for _, token in hub.asked}


def test_a_repository_is_in_the_conventions_of_the_hub(hub, small):
    push(small, REPO)
    files = hub.files(REPO, "main")
    assert files.keys() == {
        "theta.safetensors", "config.json", "README.md", "card.json", "config.gin",
    }  # fmt: skip
    front, readme = files["README.md"].decode().split("---\n", 2)[1:]
    assert "license: apache-2.0\nlibrary_name: comm-lopt\ntags:\n- learned-optimizer\n" in front
    assert f'comm_lopt.load("hf://{REPO}")' in readme
    config = json.loads(files["config.json"])
    assert config["sha256"] == hashlib.sha256(files["theta.safetensors"]).hexdigest()
    assert (config["class"], config["licence"]) == ("LOptR", "Apache-2.0")
    assert config["library_name"] == "comm-lopt" and config["hparams"]["hidden_size"] == 2


def test_a_theta_without_a_card_is_published_too(hub, small_folder, tmp_path):
    theta = tmp_path / "theta.safetensors"
    theta.write_bytes((small_folder / "theta.safetensors").read_bytes())
    push(tmp_path, REPO)
    assert b"\nlicense: apache-2.0\n" in hub.files(REPO, "main")["README.md"]
    found = comm_lopt.load(f"hf://{REPO}")
    assert (found.name, found.card) == ("lopt", None)
    assert found.file["sha256"] == theta_file(theta)["sha256"]


def test_a_revision_stays_what_it_was(hub, small, small_folder):
    first = push(small, REPO)
    hub.commit(REPO, {"theta.safetensors": b"another"})
    assert comm_lopt.load(first).file["sha256"] == theta_file(small_folder)["sha256"]
    with pytest.raises(ThetaError, match=r"one of them was replaced; push the theta anew"):
        comm_lopt.load(f"hf://{REPO}")


def test_a_repository_of_something_else_is_told_so(hub, small, monkeypatch):
    hub.commit(REPO, {"model.safetensors": b"1"})
    with pytest.raises(ThetaError, match=r"has no theta.safetensors, but \['model.safetensors'\]"):
        comm_lopt.load(f"hf://{REPO}")
    hub.commit(REPO, {"theta.safetensors": b"1", "config.json": b"[]"})
    with pytest.raises(ThetaError, match=r"config\.json of hf://somebody/lopt is not of a theta"):
        comm_lopt.load(f"hf://{REPO}")
    monkeypatch.setattr("comm_lopt.pretrained.hub._MAX_BYTES", 2)
    hub.commit(REPO, {"theta.safetensors": b"123"})
    with pytest.raises(ThetaError, match="has 3 bytes; it may have 2"):
        comm_lopt.load(f"hf://{REPO}")
    assert "/resolve/" not in hub.asked[-1][0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf://somebody/none", "the hub has no such repository or revision"),
        (f"hf://{REPO}@none", "the hub has no such repository or revision"),
        (f"hf://{REPO}@", "names no revision behind the @"),
        ("hf://lopt", "is no repository of the hub; write OWNER/NAME"),
        ("hf://../../etc/passwd", "is no repository of the hub"),
        ("hf://../etc", "Repo id must use alphanumeric chars"),
    ],
)
def test_names_that_lead_nowhere_say_so(hub, small, name, told, capsys):
    push(small, REPO)
    assert main(["pretrained", name]) == 2
    assert told in capsys.readouterr().err


def test_a_hub_that_refuses_or_is_not_there_is_an_error_in_a_sentence(hub, small, monkeypatch):
    hub.refuses = 403
    with pytest.raises(ConnectionError, match=r"403.*hf auth login") as refused:
        push(small, REPO)
    assert TOKEN not in str(refused.value)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:1")
    with pytest.raises(ConnectionError, match="look at the network and HF_ENDPOINT"):
        comm_lopt.load(f"hf://{REPO}")


def test_without_the_extra_the_error_names_it(small, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pretrained", small, "--push", REPO]) == 2
    assert main(["pretrained", f"hf://{REPO}"]) == 2
    assert capsys.readouterr().err.count('pip install "comm-lopt[hub]"') == 2
