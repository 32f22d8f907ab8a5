"""Ask a package the same questions; run by both, prints the answers as one line of JSON."""

import asyncio
import datetime as dt
import json
import re
import tempfile
import warnings

import zarr

import icechunk as ic

warnings.simplefilter("ignore")
OUT = []


def clean(value):
    if isinstance(value, dict):
        value = json.dumps(value, sort_keys=True)
    t = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{20}\b", "<ID>", str(value))
    t = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{13}\b", "<NODE>", t)
    t = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z| UTC)?", "<TIME>", t)
    t = re.sub(r"datetime\.datetime\([^)]*\)", "<DT>", t)
    return re.sub(r"/tmp/\w+", "<TMP>", t)


def obs(name, f):
    try:
        v = f()
        OUT.append((name, "ok", type(v).__name__, clean(v)))
        return v
    except BaseException as e:
        OUT.append((name, "error", type(e).__name__, getattr(e, "kind", None)))


def shapes(name, v):
    obs(name + ".repr", lambda: repr(v))
    obs(name + ".str", lambda: str(v))
    obs(name + ".html", lambda: hasattr(v, "_repr_html_"))
    obs(name + ".attrs", lambda: sorted(n for n in dir(v) if not n.startswith("_")))


d = tempfile.mkdtemp()
r = ic.Repository.create(ic.local_filesystem_storage(d))


def ses(b="main"):
    return r.writable_session(b)


s = ses()
root = zarr.group(s.store)
g = root.create_group("g")
a = root.create_array("a", shape=(8,), chunks=(2,), dtype="i4", compressors=None, filters=None)
a[:] = 1
b = g.create_array("b", shape=(4, 4), chunks=(2, 2), dtype="f8")
b[:] = 1
shapes("session.writable", s)
st = s.status()
shapes("status", st)
shapes("store", s.store)
c0 = s.commit("first", {"k": [1, "x", None, 2.5, {"z": True}]})
shapes("session.committed", s)
obs("commit again", lambda: s.commit("x"))
obs("amend committed", lambda: s.amend("x"))
obs("nochange", lambda: ses().commit("x"))
e = obs("allow_empty", lambda: isinstance(ses().commit("empty", allow_empty=True), str))
obs("amend nochange", lambda: ses().amend("amended msg"))
obs("amend empty", lambda: isinstance(ses().amend("amended msg", allow_empty=True), str))
obs(
    "anc",
    lambda: [
        (x.message, x.metadata, x.parent_id is None, x.written_at.tzinfo)
        for x in r.ancestry(branch="main")
    ],
)
info = r.lookup_snapshot(c0)
shapes("SnapshotInfo", info)
obs("anc none", lambda: list(r.ancestry()))
obs("anc two", lambda: list(r.ancestry(branch="main", tag="t")))
obs("anc bad", lambda: list(r.ancestry(branch="zz")))
obs("anc snap", lambda: len(list(r.ancestry(snapshot_id=c0))))
obs("anc badid", lambda: list(r.ancestry(snapshot_id="zz")))
obs("anc unknown", lambda: list(r.ancestry(snapshot_id="00000000000000000000")))
obs("next", lambda: next(iter(r.ancestry(branch="main"))).message)
s = ses()
zarr.open_array(s.store, path="a", mode="r+")[:2] = 5
fid = obs("flush", lambda: isinstance(s.flush("anon"), str))
obs("after flush", lambda: (s.read_only, s.has_uncommitted_changes, s.branch))
obs("commit after flush", lambda: s.commit("x"))
shapes("session.flushed", s)
obs("flush nochange", lambda: ses().flush("y"))
s = ses()
zarr.open_array(s.store, path="a", mode="r+")[:2] = 6
obs("amend", lambda: isinstance(s.amend("amended"), str))
obs("metadata bad", lambda: s.commit("x", {"a": object()}))


def x():
    s = ses()
    zarr.open_array(s.store, path="a", mode="r+")[:2] = 7
    return s


obs("meta bad2", lambda: x().commit("x", {"a": object()}))
obs("meta bad3", lambda: x().commit("x", {1: 2}))
obs("msg bad", lambda: x().commit(None))
obs("default meta", r.default_commit_metadata)
r.set_default_commit_metadata({"author": "me", "n": 1})
obs("default meta2", r.default_commit_metadata)
obs("meta merged", lambda: r.lookup_snapshot(x().commit("m", {"n": 2, "q": 3})).metadata)
obs("set bad meta", lambda: r.set_default_commit_metadata({"a": object()}))
obs("set None", lambda: r.set_default_commit_metadata(None))
r.set_default_commit_metadata({})


def tx():
    with r.transaction("main", message="tx", metadata={"t": 1}) as store:
        zarr.open_array(store, path="a", mode="r+")[:2] = 9
        return type(store).__name__


obs("transaction", tx)
obs("tx msg", lambda: next(iter(r.ancestry(branch="main"))).message)


def tx2():
    with r.transaction("main", message="tx"):
        pass


obs("tx empty", tx2)


def tx3():
    with r.transaction("main", message="tx"):
        raise KeyError("x")


obs("tx raises", tx3)
obs("tx bad branch", lambda: r.transaction("zz", message="x").__enter__())
# branches
tip = r.lookup_branch("main")
for n, f in {
    "create": lambda: r.create_branch("b", c0),
    "create again": lambda: r.create_branch("b", c0),
    "create bad snap": lambda: r.create_branch("c", "zz"),
    "create unk": lambda: r.create_branch("c", "00000000000000000000"),
    "empty name": lambda: r.create_branch("", c0),
    "slash": lambda: r.create_branch("x/y", c0),
    "reset wrong": lambda: r.reset_branch("b", tip, from_snapshot_id=tip),
    "reset": lambda: r.reset_branch("b", tip, from_snapshot_id=c0),
    "reset unk": lambda: r.reset_branch("zz", tip),
    "reset same": lambda: r.reset_branch("b", tip),
    "del": lambda: r.delete_branch("b"),
    "del again": lambda: r.delete_branch("b"),
    "del main": lambda: r.delete_branch("main"),
    "tag": lambda: r.create_tag("t", c0),
    "tag again": lambda: r.create_tag("t", tip),
    "lookup tag": lambda: r.lookup_tag("t") == c0,
    "del tag": lambda: r.delete_tag("t"),
    "tag prev": lambda: r.create_tag("t", c0),
    "lookup del": lambda: r.lookup_tag("t"),
    "list tags": r.list_tags,
    "list branches": lambda: sorted(r.list_branches()),
    "del tag unk": lambda: r.delete_tag("u"),
    "lookup_snapshot unk": lambda: r.lookup_snapshot("00000000000000000000"),
}.items():
    obs("ref " + n, f)
# diff
df = obs("diff", lambda: None)
D = r.diff(from_snapshot_id=c0, to_branch="main")
shapes("Diff", D)
for at in [
    "new_groups",
    "new_arrays",
    "deleted_groups",
    "deleted_arrays",
    "updated_groups",
    "updated_arrays",
    "updated_chunks",
    "moved_nodes",
]:
    obs("Diff." + at, lambda at=at: getattr(D, at))
obs("Diff.is_empty", D.is_empty)
obs("diff rev", lambda: r.diff(from_branch="main", to_snapshot_id=c0))
obs("diff same", lambda: r.diff(from_branch="main", to_branch="main"))
obs("diff none", r.diff)
obs("D==D", lambda: r.diff(from_snapshot_id=c0, to_branch="main") == D)
# as_of
obs(
    "as_of future",
    lambda: (
        r.readonly_session(branch="main", as_of=dt.datetime.now(dt.UTC)).snapshot_id
        == r.lookup_branch("main")
    ),
)
obs(
    "as_of past",
    lambda: r.readonly_session(branch="main", as_of=dt.datetime(2000, 1, 1, tzinfo=dt.UTC)),
)
obs("as_of naive", lambda: r.readonly_session(branch="main", as_of=dt.datetime.now()))
obs(
    "as_of tag",
    lambda: r.readonly_session(tag="v", as_of=dt.datetime.now(dt.UTC)),
)
obs("as_of only", lambda: r.readonly_session(as_of=dt.datetime.now(dt.UTC)))
ro = r.readonly_session("main")
shapes("session.ro", ro)
obs("ro commit", lambda: ro.commit("x"))
obs("ro fork", ro.fork)
obs("ro discard", ro.discard_changes)
obs("ro status", ro.status)
obs("ro rebase", lambda: ro.rebase(ic.ConflictDetector()))
obs("ro write", lambda: zarr.open_array(ro.store, path="a", mode="r+").__setitem__(slice(0, 2), 1))
# move
m = r.rearrange_session("main")
shapes("session.rearrange", m)
obs("move", lambda: m.move("/g", "/h"))
obs("move missing", lambda: m.move("/zz", "/y"))
obs("move over", lambda: m.move("/h", "/a"))
obs("move self", lambda: m.move("/h", "/h/k"))
obs("move root", lambda: m.move("/", "/q"))
obs("move under array", lambda: m.move("/h", "/a/h"))
obs("move nopar", lambda: m.move("/h", "/n/o"))
obs("move status", m.status)
obs(
    "rearr write", lambda: zarr.open_array(m.store, path="a", mode="r+").__setitem__(slice(0, 2), 1)
)
obs("move norm", lambda: m.move("h", "i"))
obs("move commit", lambda: isinstance(m.commit("moved"), str))
obs("plain move", lambda: ses().move("/i", "/j"))
obs("after move diff", lambda: str(r.diff(from_snapshot_id=tip, to_branch="main")))
# shift, reindex
s = ses()
obs("shift", lambda: s.shift_array("/a", (1,)))
obs("shift val", zarr.open_array(s.store, path="a")[:].tolist)
obs("shift bad", lambda: s.shift_array("/zz", (1,)))
obs("shift group", lambda: s.shift_array("/i", (1,)))
obs("reindex", lambda: s.reindex_array("/a", lambda c: [c[0] - 1] if c[0] > 0 else None))
obs("reindex val", zarr.open_array(s.store, path="a")[:].tolist)
obs("reindex exc", lambda: s.reindex_array("/a", lambda c: 1 / 0))
obs("shift status", s.status)
# chunk inspection
s = ses()
obs("chunk_type", lambda: [s.chunk_type("/a", [i]) for i in range(4)])
obs("chunk_type repr", lambda: repr(s.chunk_type("/a", [0])))
obs("chunk_type bad rank", lambda: s.chunk_type("/a", [0, 0]))
obs("chunk_type oob", lambda: s.chunk_type("/a", [99]))
obs("chunk_type group", lambda: s.chunk_type("/i", [0]))
obs("chunk_type none", lambda: s.chunk_type("/zz", [0]))
obs("chunk_type rel", lambda: s.chunk_type("a", [0]))
obs("get_node_id", lambda: s.get_node_id("/a"))
obs("get_node_id none", lambda: s.get_node_id("/zz"))
obs("get_node_id root", lambda: s.get_node_id("/"))
obs("virt", s.all_virtual_chunk_locations)


async def coords(p, **k):
    return [c async for c in s.chunk_coordinates(p, **k)]


obs("chunk_coordinates", lambda: sorted(asyncio.run(coords("/a"))))
obs("chunk_coordinates2", lambda: sorted(asyncio.run(coords("/i/b", batch_size=2))))
obs("chunk_coordinates zz", lambda: asyncio.run(coords("/zz")))
obs("chunk_coordinates grp", lambda: asyncio.run(coords("/i")))


async def aci(p, **k):
    return (
        [c async for c in s.store.array_chunk_iterator(p, **k)]
        if hasattr(s.store, "array_chunk_iterator")
        else None
    )


obs("aci", lambda: sorted(asyncio.run(aci("/a"))))
# metadata, status, flags
obs("get_metadata", r.get_metadata)
obs("set_metadata", lambda: r.set_metadata({"a": 1, "b": {"c": [1]}}))
obs("get_metadata2", r.get_metadata)
obs("update_metadata", lambda: r.update_metadata({"a": 2, "z": 3}))
obs("get3", r.get_metadata)
obs("set bad", lambda: r.set_metadata({"x": object()}))
obs("status type", lambda: type(r.get_status()).__name__)
shapes("RepoStatus", r.get_status())
obs(
    "set_status",
    lambda: r.set_status(
        ic.RepoStatus(ic.RepoAvailability.read_only, limited_availability_reason="why")
    ),
)
shapes("RepoStatus2", r.get_status())
obs("write ro", lambda: r.create_branch("q", c0))
obs("commit ro", lambda: x().commit("x"))
obs("wsession ro", ses)
obs("set back", lambda: r.set_status(ic.RepoStatus(ic.RepoAvailability.online)))
ff = obs("flags", lambda: sorted(r.feature_flags(), key=lambda f: f.id))
obs("enabled", lambda: sorted(r.enabled_feature_flags(), key=lambda f: f.id))
obs("disabled", r.disabled_feature_flags)
obs("set flag", lambda: r.set_feature_flag("create_tag", setting=False))
obs("tag off", lambda: r.create_tag("off", c0))
obs("flag unk", lambda: r.set_feature_flag("zz", setting=False))
obs("disabled2", r.disabled_feature_flags)
obs("unset", lambda: r.set_feature_flag("create_tag", setting=None))
if ff:
    shapes("FeatureFlag", ff[0])
obs("ops_log", lambda: [type(u.kind).__name__ for u in r.ops_log()])
u = next(iter(r.ops_log()))
shapes("Update", u)
for k in r.ops_log():
    obs("ops " + type(k.kind).__name__, lambda k=k: repr(k.kind))
# upkeep
gc = r.garbage_collect(dt.datetime.now(dt.UTC) - dt.timedelta(days=1), dry_run=True)
shapes("GCSummary", gc)
cs = r.chunk_storage_stats()
shapes("stats", cs)
obs("stats sum", lambda: cs + cs)
obs("nonvirt", lambda: (cs.non_virtual_bytes(), cs.total_bytes()))
obs(
    "expire",
    lambda: r.expire_snapshots(dt.datetime(2000, 1, 1, tzinfo=dt.UTC)),
)
obs("expire naive", lambda: r.expire_snapshots(dt.datetime(2000, 1, 1)))
mf = r.list_manifest_files(r.lookup_branch("main"))
shapes("ManifestFileInfo", mf[0])
obs("lmf type", lambda: type(mf).__name__)
obs("inspect_snapshot keys", lambda: type(r.inspect_snapshot(c0)).__name__)
obs("inspect unk", lambda: r.inspect_snapshot("00000000000000000000"))
obs("fetch_config", lambda: ic.Repository.fetch_config(r.storage))
obs("save_config", r.save_config)
obs("fetch_config2", lambda: type(ic.Repository.fetch_config(r.storage)).__name__)
obs("reopen", lambda: type(r.reopen()).__name__)
obs("fetch_spec", lambda: repr(ic.Repository.fetch_spec_version(r.storage)))
obs("exists", lambda: ic.Repository.exists(r.storage))
obs("spec", lambda: repr(r.spec_version))
obs("rewrite", lambda: isinstance(r.rewrite_manifests("rw", branch="main"), str))
obs("rewrite bad", lambda: r.rewrite_manifests("rw", branch="main", commit_method="zz"))
shapes("Repository", r)
shapes("Storage", r.storage)
shapes("MemStorage", ic.in_memory_storage())
# conflict
s1, s2 = ses(), ses()
for q, v in ((s1, 1), (s2, 2)):
    zarr.open_array(q.store, path="a", mode="r+")[:2] = v
s1.commit("one")
try:
    s2.commit("two")
except ic.ConflictError as caught:
    ex = caught
    obs(
        "conflict attrs",
        lambda: (
            type(ex).__name__,
            ex.kind,
            len(ex.expected_parent),
            len(ex.actual_parent),
        ),
    )
    shapes("ConflictError", ex)
try:
    s2.rebase(ic.ConflictDetector())
except ic.ConflictError as caught:
    ex = caught
    obs("rebase attrs", lambda: (type(ex).__name__, ex.kind, len(ex.snapshot)))
    c = ex.conflicts[0]
    shapes("Conflict", c)
    obs("c", lambda: (c.conflict_type, c.path, c.conflicted_chunks))
    obs("c type", lambda: type(c.conflicted_chunks).__name__)
print(json.dumps(OUT))
