"""Messages of the package: filters, the variable, handlers; what is printed about it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import icechunk
from icechunk import logs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _levels_as_before(monkeypatch):
    monkeypatch.delenv("ICECHUNK_LOG", raising=False)
    before = {name: logging.getLogger(name).level for name in logs._our_loggers()}
    yield
    icechunk.shutdown_telemetry()
    for name in logs._our_loggers():
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))


def shown(name: str) -> int:
    return logging.getLogger(name).getEffectiveLevel()


@pytest.mark.parametrize(
    ("directive", "levels"),
    [
        ("debug", {"icechunk": logging.DEBUG, "icechunk.session": logging.DEBUG}),
        ("OFF", {"icechunk": logs.OFF}),
        ("3", {"icechunk": logging.INFO}),
        ("trace", {"icechunk": logs.TRACE}),
        ("", {"icechunk": logging.ERROR}),
        ("icechunk::session=info,warn", {"icechunk": 30, "icechunk.session": 20}),
        ("icechunk.session=info", {"icechunk": logs.OFF, "icechunk.session": 20}),
        ("error,icechunk_storage=5", {"icechunk": 40, "icechunk.storage.s3": logs.TRACE}),
        ("warn, icechunk_format::repo_info", {"icechunk.format.repo_info": logs.TRACE}),
        ("somebody_else", {"icechunk": logs.OFF}),
    ],
)
def test_filters_are_those_of_the_official_package(directive, levels):
    icechunk.set_logs_filter(directive)
    assert {name: shown(name) for name in levels} == levels
    logging.getLogger("somebody_else").setLevel(logging.NOTSET)


def test_the_next_filter_replaces_the_last():
    icechunk.set_logs_filter("icechunk.session=debug,warn")
    icechunk.set_logs_filter("info")
    assert shown("icechunk.session") == logging.INFO


def test_none_is_the_variable_or_warnings(monkeypatch):
    icechunk.set_logs_filter(None)
    assert shown("icechunk") == logging.WARNING
    monkeypatch.setenv("ICECHUNK_LOG", "debug")
    icechunk.set_logs_filter(None)
    assert shown("icechunk") == logging.DEBUG


@pytest.mark.parametrize("wrong", ["a=b=c", "icechunk=99", "nonsense==", "icechunk[commit]=debug?"])
def test_what_is_not_understood_is_named_and_ignored(wrong, capsys):
    icechunk.set_logs_filter(f"info,{wrong}")
    assert f"ignoring `{wrong}`" in capsys.readouterr().err
    assert shown("icechunk") == logging.INFO


def test_messages_go_where_logging_is_configured(caplog):
    icechunk.set_logs_filter("info")
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    repo.writable_session("main").commit("nothing", allow_empty=True)
    assert any("commit started on branch main" in r.getMessage() for r in caplog.records)


SCRIPT = """
import icechunk
repo = icechunk.Repository.create(icechunk.in_memory_storage())
repo.writable_session("main").commit("nothing", allow_empty=True)
icechunk.shutdown_telemetry()
icechunk.shutdown_telemetry()
repo.writable_session("main").commit("silent", allow_empty=True)
"""


@pytest.mark.parametrize(("value", "expected"), [("debug", True), ("off", False), (None, False)])
def test_the_variable_alone_is_enough(value, expected):
    env = {"PYTHONPATH": str(ROOT), "PATH": ""} | ({"ICECHUNK_LOG": value} if value else {})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
    )
    assert ("INFO icechunk.transaction: commit of snapshot" in done.stderr) is expected
    assert ("DEBUG icechunk.assets.manager: writing" in done.stderr) is expected
    assert done.stderr.count("commit started") == int(expected)


def test_a_program_without_handlers_gets_one_once(monkeypatch):
    logger = logging.getLogger("icechunk")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [])
    icechunk.initialize_logs()
    icechunk.initialize_logs()
    assert len(logger.handlers) == 1
    icechunk.shutdown_telemetry()
    assert logger.handlers == []


def test_what_is_told_about_the_package(capsys):
    icechunk.print_debug_info()
    lines = dict(line.split(":  ") for line in capsys.readouterr().out.splitlines())
    assert lines["icechunk"] == icechunk.__version__
    assert {"platform", "python", "zarr", "numcodecs", "xarray"} <= set(lines)
    assert icechunk.user_agent() == f"icechunk-python-{icechunk.__version__}"
    assert icechunk.spec_version() is icechunk.SpecVersion.current() is icechunk.SpecVersion.v2
    assert {"v1", "v2", "current"} <= set(dir(icechunk.SpecVersion))
    assert icechunk.CompressionAlgorithm.default() is icechunk.CompressionAlgorithm.Zstd
