"""The processes that `lirf up` starts: what they import, and whether they work."""

from pathlib import Path

from tests.e2e.processes import wait_until
from tests.e2e.terminal import Terminal, processes_of

FOREIGN = "app", "worker", "lirf_core", "migrations", "celery", "billiard", "kombu", "random", "csv"


def imports_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_a_folder_with_packages_of_our_names_runs_no_code_in_the_service(tmp_path: Path) -> None:
    terminal, foreign, ran = Terminal(tmp_path), tmp_path / "foreign", tmp_path / "ran"
    for package in FOREIGN:
        (foreign / package).mkdir(parents=True)
        (foreign / package / "__init__.py").write_text(f"open({str(ran)!r}, 'a').write({package!r})\n")
    with terminal.up(cwd=foreign):
        wait_until(lambda: any("billiard" in command and imports_torch(pid) for pid, command in processes_of(tmp_path)))
    assert not ran.exists(), ran.read_text()
    log = (tmp_path / "up.log").read_text()
    key = (tmp_path / "state" / "admin.key").read_text().strip()
    assert key not in log
    assert f"The first administrator key is in {tmp_path / 'state' / 'admin.key'} (mode 0600)." in log
    assert '"level": "info"' in log


def test_the_service_is_not_ready_while_its_worker_cannot_work(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    terminal.environment["LIRF_BROKER_URL"] = f"sqla+sqlite:///{tmp_path / 'missing' / 'broker.sqlite3'}"
    with terminal.up("live") as process:
        detail = "The worker of `lirf up` does not work (yet). Its log has the reason."
        wait_until(lambda: terminal.health("ready") == (503, detail))
        assert process.poll() is None
        assert "LIRF is up" not in (tmp_path / "up.log").read_text()
