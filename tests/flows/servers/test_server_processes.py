"""`ila servers` starts once, and ends what it started and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.servers import secrets
from flows.servers.process import Server, start, stop_all, wait
from flows.servers.programs import _answers
from flows.servers.up import parse_teams
from ila_core.errors import CheckError, UserError
from tests.helpers.served import ports


def server(port: int, *, module: str = "http.server") -> Server:
    command = [sys.executable, "-m", module, str(port), "--bind", "127.0.0.1"]
    return Server("small", port, command, _answers(port, ""), {})


def test_a_server_is_started_once_and_ended(port, tmp_path):
    small = server(port)
    assert start(small, tmp_path) is True
    wait(small, tmp_path)
    assert start(small, tmp_path) is False
    with pytest.raises(UserError, match="runs already, on port"):
        start(server(port + 1), tmp_path)
    assert stop_all(tmp_path) == ["small"]
    assert not small.answers()
    assert stop_all(tmp_path) == []


def test_a_process_that_got_the_pid_of_a_server_is_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        note = {"pid": other.pid, "born": 1.0, "port": 1, "ends_on": int(signal.SIGTERM)}
        (tmp_path / "small.json").write_text(json.dumps(note))
        assert stop_all(tmp_path) == []
        assert psutil.Process(other.pid).is_running()
        assert other.stdin is not None
        other.stdin.write(b"\n")


def test_a_port_that_is_taken_and_a_server_that_ends_are_said(port, tmp_path):
    small = server(port)
    start(small, tmp_path)
    wait(small, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=f"port {small.port} of small is taken"):
        start(small, tmp_path / "elsewhere")
    stop_all(tmp_path)
    broken = server(port, module="no_such_module")
    start(broken, tmp_path)
    with pytest.raises(CheckError, match=r"ended by itself(.|\n)*no_such_module"):
        wait(broken, tmp_path)


def test_secrets_are_readable_to_their_owner_alone(tmp_path):
    made = secrets.secret(tmp_path, "admin")
    assert secrets.secret(tmp_path, "admin") == made and len(made) >= 32
    secrets.write_variables(tmp_path / "a.env", {"NAME": "it's"})
    for file in (tmp_path / "secrets" / "admin", tmp_path / "a.env"):
        assert file.stat().st_mode & 0o777 == 0o600
    shell = f". {tmp_path}/a.env && printenv NAME"
    assert subprocess.check_output(["sh", "-c", shell], text=True) == "it's\n"


def test_teams_are_names_with_ports_each_once():
    assert parse_teams(["a:4200", "b:4201"]) == {"a": 4200, "b": 4201}
    for wrong in (["a"], ["a:4200", "a:4201"], ["a:4200", "b:4200"], ["../a:4200"]):
        with pytest.raises(UserError, match="write team:port"):
            parse_teams(wrong)


@pytest.mark.servers
@pytest.mark.slow
def test_two_teams_are_up_with_two_prefect_servers_and_one_mlflow(request, ila, tmp_path):
    if request.config.getoption("--servers-on") != "postgresql":
        pytest.skip("PostgreSQL: make test-servers")
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ila-up-"))
    home = {"ILA_SERVERS_HOME": str(folder)}
    try:
        with ports(4) as (a, b, mlflow, postgres):
            words = ["servers", "up", "--prefect", f"a:{a}", "--prefect", f"b:{b}"]
            words += ["--mlflow-port", str(mlflow), "--postgres-port", str(postgres)]
            told = ila(*words, **home)
        assert told.count(" started") == 4 and "limit `gpu` of 1" in told
        passwords = [file.read_text() for file in (folder / "secrets").iterdir()]
        assert not any(password in told for password in passwords)
        listed = subprocess.check_output(["ps", "-eo", "args"], text=True)
        assert not any(password.strip() in listed for password in passwords)
        assert ila(*words, **home).count(" runs already") == 4
    finally:
        ended = ila("servers", "down", **home)
        shutil.rmtree(folder)
    assert all(name in ended for name in ("mlflow", "prefect-a", "prefect-b", "postgres"))
