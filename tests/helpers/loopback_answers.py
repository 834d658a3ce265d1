"""The answers of the loopback Hub (loopback_hub.py): one function a request, as the public Hub gives them."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs

import yaml

from tests.helpers.loopback_git import LFS_SUFFIXES, USER, Blob, Commit, Repo, pointer, tree_id, xet_files

TOKEN = "hf_LoopbackLoopbackLoopbackLoopback01"


class Holdings(Protocol):
    """What an answer is made from. large: content by sha256; xet_store: hf_xet's local store, if it is used."""

    url: str
    repos: dict[tuple[str, str], Repo]
    large: dict[str, bytes]
    xet_store: Path | None

    def create(self, kind: str, name: str, private: bool = False) -> Repo: ...


@dataclass(frozen=True)
class Request:
    """What a route gets: the parts that its pattern captured (unquoted), query, headers and body."""

    parts: dict[str, str]
    query: dict[str, str]
    headers: Message
    body: bytes
    writer: bool

    def json(self) -> dict:
        return json.loads(self.body or b"{}")


class Refused(Exception):
    """An answer that is an error. code: the Hub's X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


Answer = tuple[int, dict[str, str], bytes]


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode()


def _repo(hub: Holdings, request: Request) -> Repo:
    repo = hub.repos.get((request.parts.get("kind") or "models", request.parts["id"]))
    if repo is None or (repo.private and not request.writer):
        raise Refused(404, "Repository not found", "RepoNotFound")
    return repo


def _commit_of(repo: Repo, revision: str) -> Commit:
    commit = repo.resolve(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def whoami(hub: Holdings, request: Request) -> Answer:
    if not request.writer:
        raise Refused(401, "Invalid credentials in Authorization header")
    return json_answer({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})


def create(hub: Holdings, request: Request) -> Answer:
    body = request.json()
    name, kind = f"{body.get('organization') or USER}/{body['name']}", body.get("type", "model") + "s"
    if not name.startswith(f"{USER}/"):
        raise Refused(403, f"You don't have the rights to create a {kind[:-1]} under this namespace")
    if kind == "spaces" and body.get("sdk") != "static":
        raise Refused(400, "a Space needs an sdk; this Hub has static ones only")
    url = f"{hub.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
    if (kind, name) in hub.repos:
        return json_answer({"error": "You already created this repo", "url": url}, 409)
    hub.create(kind, name, body.get("visibility") == "private")
    return json_answer({"url": url, "name": name})


def validate_yaml(hub: Holdings, request: Request) -> Answer:
    match = re.match(r"---\n(.*?)\n---", request.json()["content"], re.DOTALL)
    try:
        sound = match is None or isinstance(yaml.safe_load(match[1]), dict)
    except yaml.YAMLError:
        sound = False
    errors = [] if sound else [{"message": "the metadata is not a YAML mapping"}]
    return json_answer({"errors": errors, "warnings": []}, 400 if errors else 200)


def info(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    commit = _commit_of(repo, request.parts.get("rev") or "main")
    siblings = [{"rfilename": path, "size": b.size, "blobId": b.oid} for path, b in sorted(commit.files.items())]
    facts = {"id": repo.id, "sha": commit.oid, "private": repo.private, "gated": False, "tags": [], "disabled": False}
    return json_answer({**facts, "siblings": siblings, "lastModified": _date(commit), "downloads": 0, "likes": 0})


def refs(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)

    def named(kind: str) -> list[dict]:
        return [
            {"name": ref.removeprefix(f"{kind}/"), "ref": f"refs/{ref}", "targetCommit": oid}
            for ref, oid in repo.refs.items()
            if ref.startswith(f"{kind}/")
        ]

    pulls = {"pullRequests": named("pr")} if request.query.get("include_prs") else {}
    return json_answer({"branches": named("heads"), "converts": [], "tags": named("tags"), **pulls})


def commits(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    shown = [
        {"id": c.oid, "title": c.message.split("\n")[0], "message": "", "date": _date(c), "authors": [{"user": USER}]}
        for c in repo.history(_commit_of(repo, request.parts["rev"]))
    ]
    return json_answer(shown)


def _date(commit: Commit) -> str:
    return f"2023-11-14T22:{commit.date // 60 % 60:02}:{commit.date % 60:02}.000Z"


def _entry(hub: Holdings, path: str, blob: Blob) -> dict:
    entry: dict = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.data)}
        if hub.xet_store:
            entry["xetHash"] = xet_files(hub.xet_store)[blob.sha256]
    return entry


def _listing(hub: Holdings, commit: Commit) -> dict[str, dict]:
    """Every file and folder of a commit, by path."""
    entries = {path: _entry(hub, path, blob) for path, blob in commit.files.items()}
    for path in commit.files:
        for i in [i for i, letter in enumerate(path) if letter == "/"]:
            inside = {p[i + 1 :]: b for p, b in commit.files.items() if p.startswith(path[: i + 1])}
            entries[path[:i]] = {"type": "directory", "oid": tree_id(inside), "size": 0, "path": path[:i]}
    return dict(sorted(entries.items()))


def tree(hub: Holdings, request: Request) -> Answer:
    repo, under = _repo(hub, request), request.parts.get("path") or ""
    listing = _listing(hub, _commit_of(repo, request.parts["rev"]))
    if under and listing.get(under, {}).get("type") != "directory":
        raise Refused(404, f"{under} does not exist", "EntryNotFound")
    inside = [entry for path, entry in listing.items() if not under or path.startswith(f"{under}/")]
    depth = under.count("/") + bool(under)
    recursive = request.query.get("recursive", "").lower() in {"1", "true"}
    return json_answer([entry for entry in inside if recursive or entry["path"].count("/") == depth])


def paths_info(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    if "json" in (request.headers["Content-Type"] or ""):
        paths = request.json()["paths"]
    else:
        paths = parse_qs(request.body.decode()).get("paths", [])
    listing = _listing(hub, _commit_of(repo, request.parts["rev"]))
    return json_answer([listing[path] for path in [paths] * isinstance(paths, str) or paths if path in listing])


def preupload(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    there = _commit_of(repo, request.parts["rev"]).files
    ignored = there[".gitignore"].data.decode().split() if ".gitignore" in there else []
    files = []
    for file in request.json()["files"]:
        large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10_000_000
        ignore = any(fnmatch.fnmatchcase(file["path"], pattern) for pattern in ignored)
        answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignore}
        if blob := there.get(file["path"]):
            answer["oid"] = blob.sha256 or blob.oid
        files.append(answer)
    return json_answer({"files": files})


def lfs_batch(hub: Holdings, request: Request) -> Answer:
    objects: list[dict] = []
    for item in request.json()["objects"]:
        objects.append({"oid": item["oid"], "size": item["size"]})
        if item["oid"] not in hub.large:
            href = f"{hub.url}/lfs/{item['oid']}"
            objects[-1]["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
    return json_answer({"transfer": "basic", "objects": objects})


def lfs_put(hub: Holdings, request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request.parts["oid"]:
        raise Refused(400, "the content does not match its oid")
    hub.large[request.parts["oid"]] = request.body
    return 200, {}, b""


def lfs_verify(hub: Holdings, request: Request) -> Answer:
    if request.json()["oid"] not in hub.large:
        raise Refused(404, "no such object")
    return json_answer({})


def xet_token(hub: Holdings, request: Request) -> Answer:
    if not hub.xet_store:
        raise Refused(404, "no Xet here")
    url, expires = f"local://{hub.xet_store}", 4_000_000_000
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
    return json_answer({"casUrl": url, "accessToken": "xet", "exp": expires}, headers=headers)


def commit(hub: Holdings, request: Request) -> Answer:
    repo, branch = _repo(hub, request), request.parts["rev"]
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header, head = lines[0]["value"], _commit_of(repo, branch)
    opens_pr = "create_pr" in request.query
    parent = header.get("parentCommit", head.oid)
    if not opens_pr and not head.oid.startswith(parent):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for line in lines[1:]:
        _apply(hub, files, line["key"], line["value"])
    number = sum(ref.startswith("pr/") for ref in repo.refs) + 1
    ref = f"pr/{number}" if opens_pr else f"heads/{branch}"
    message = f"{header['summary']}\n\n{header.get('description') or ''}".strip()
    commit = repo.commit(ref, files, message, head.oid)
    page = f"{hub.url}/{'' if repo.kind == 'models' else f'{repo.kind}/'}{repo.id}"
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}", "hookOutput": ""}
    return json_answer(answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if opens_pr else {}))


def _apply(hub: Holdings, files: dict[str, Blob], key: str, value: dict) -> None:
    path = value["path"]
    if key == "file":
        data = base64.b64decode(value["content"])
        files[path] = Blob(data, len(data))
    elif key == "lfsFile":
        if value["oid"] not in (xet_files(hub.xet_store) if hub.xet_store else hub.large):
            raise Refused(400, f"LFS object {value['oid']} was never uploaded")
        files[path] = pointer(value["oid"], value["size"])
    elif key == "deletedFile":
        if path not in files:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        del files[path]
    else:
        raise Refused(400, f"no such operation: {key}")


def tag(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    commit, name = _commit_of(repo, request.parts["rev"]), request.json()["tag"]
    if f"tags/{name}" in repo.refs:
        raise Refused(409, f"Tag {name} already exists")
    repo.refs[f"tags/{name}"] = commit.oid
    return json_answer({})


def branch(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    if f"heads/{request.parts['rev']}" in repo.refs:
        raise Refused(409, "Branch already exists")
    repo.refs[f"heads/{request.parts['rev']}"] = _commit_of(repo, request.json().get("startingPoint", "main")).oid
    return json_answer({})


def resolve(hub: Holdings, request: Request) -> Answer:
    repo = _repo(hub, request)
    commit, path = _commit_of(repo, request.parts["rev"]), request.parts["path"]
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    blob = commit.files.get(path)
    if blob is None:
        raise Refused(404, f"{path} does not exist at {commit.oid}", "EntryNotFound", headers)
    headers["ETag"] = f'"{blob.sha256 or blob.oid}"'
    if blob.sha256:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(blob.size)}
    if blob.sha256 and hub.xet_store:
        route = f"{hub.url}/api/{repo.kind}/{repo.id}/xet-read-token/{commit.oid}"
        headers |= {"X-Xet-Hash": xet_files(hub.xet_store)[blob.sha256], "Link": f'<{route}>; rel="xet-auth"'}
        return 200, headers | {"Content-Length": str(blob.size)}, b""
    data = hub.large[blob.sha256] if blob.sha256 else blob.data
    if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers["Range"] or ""):
        start, end = int(match[1]), int(match[2] or len(data) - 1) + 1
        headers["Content-Range"] = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}"
        return (206, headers, data[start:end]) if start < len(data) else (416, headers, b"")
    return 200, headers, data
