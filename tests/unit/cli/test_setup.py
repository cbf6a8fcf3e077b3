"""How the servers are set up, and what the development service says and keeps."""

import stat
from pathlib import Path

import pytest

from app.cli.dev import curl_line, development_settings, show_panel
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.cli.serve import gunicorn_arguments
from app.cli.state import key_file, private_directory, read_private, state_directory, write_private
from app.settings import Environment, HttpSettings, LogFormat, MetricsSettings, Settings, TlsSettings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in (
        "MFW_ENVIRONMENT",
        "MFW_STATE_DIR",
        "MFW_HTTP__PORT",
        "MFW_POLICIES__DIRECTORY",
        "MFW_POLICIES__SOURCE",
        "MFW_LOGGING__FORMAT",
    ):
        monkeypatch.delenv(name, raising=False)


def settings(**http):
    return Settings(environment=Environment.TEST, http=HttpSettings(**http), state_dir=Path("/state/with space"))


def development(**given):
    return development_settings(**{"port": None, "metrics_port": None, "state_dir": None, "policies": None, **given})


class TestGunicorn:
    def test_one_worker_and_no_socket_file(self):
        arguments = gunicorn_arguments(
            settings(host="0.0.0.0", port=9000, shutdown_grace_seconds=40, drain_seconds=2.5)
        )
        assert arguments[-1] == "app.main:app"
        assert {"--bind=0.0.0.0:9000", "--workers=1", "--no-control-socket", "--graceful-timeout=43"} <= set(arguments)
        # Nobody is believed about where a request comes from, not even a neighbour on the same host.
        assert "--forwarded-allow-ips=" in arguments

    def test_an_ipv6_address(self):
        assert "--bind=[::]:8080" in gunicorn_arguments(settings(host="::"))

    def test_the_port_with_tls_is_the_last(self):
        def binds(**tls):
            named = {"certificate_file": Path("c"), "key_file": Path("k")}
            made = settings(host="::").model_copy(update={"tls": TlsSettings(**(named | tls))})
            return [one for one in gunicorn_arguments(made) if one.startswith("--bind")]

        assert binds() == ["--bind=[::]:8080", "--bind=[::]:8443"]
        assert binds(plain_http="none", host="10.0.0.1", port=443) == ["--bind=10.0.0.1:443"]
        assert binds(key_file=None) == ["--bind=[::]:8080"]

    def test_trusted_proxies(self):
        arguments = gunicorn_arguments(settings(trusted_proxies=("10.0.0.0/8", "::1")))
        assert "--forwarded-allow-ips=10.0.0.0/8,::1" in arguments


class TestDevelopmentSettings:
    def test_tls_is_not_passed_over_in_silence(self, monkeypatch):
        monkeypatch.setenv("MFW_TLS__CERTIFICATE_FILE", "tls.crt")
        with pytest.raises(Refused) as caught:
            development()
        assert caught.value.code is ExitCode.BAD_SETTINGS

    def test_defaults(self):
        made = development()
        assert made.environment is Environment.DEVELOPMENT
        assert made.logging.format is LogFormat.TEXT
        assert made.embedded_database
        assert made.policies.directory is not None
        assert made.policies.directory.parts[-2:] == ("policies", "starter")

    def test_the_command_line_wins_over_the_environment(self, monkeypatch):
        monkeypatch.setenv("MFW_HTTP__PORT", "1")
        monkeypatch.setenv("MFW_POLICIES__DIRECTORY", "/environment")
        made = development(port=2, metrics_port=3, state_dir=Path("/s"), policies=Path("/line"))
        assert (made.http.port, made.metrics.port) == (2, 3)
        assert (made.state_dir, made.policies.directory) == (Path("/s"), Path("/line"))

    def test_the_environment_wins_over_the_defaults(self, monkeypatch):
        monkeypatch.setenv("MFW_LOGGING__FORMAT", "json")
        monkeypatch.setenv("MFW_POLICIES__DIRECTORY", "/environment")
        made = development()
        assert made.logging.format is LogFormat.JSON
        assert made.policies.directory == Path("/environment")

    def test_policies_of_the_database_need_no_directory(self, monkeypatch):
        monkeypatch.setenv("MFW_POLICIES__SOURCE", "database")
        assert development().policies.directory is None


class TestPanel:
    def test_the_key_is_read_from_its_file_and_not_shown(self):
        line = curl_line(settings(), 8080)
        assert "$(cat '/state/with space/api-key')" in line
        assert line.startswith("curl -sS http://127.0.0.1:8080/v1/decisions ")

    @pytest.mark.parametrize(
        ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("10.0.0.1", "10.0.0.1")]
    )
    def test_an_address_that_can_be_called(self, host, shown):
        assert f"http://{shown}:80/" in curl_line(settings(host=host), 80)

    def test_the_panel_names_everything(self, capsys):
        made = settings().model_copy(update={"metrics": MetricsSettings(port=9191)})
        show_panel(made, 8181)
        shown = capsys.readouterr().out
        for text in ("http://127.0.0.1:8181", "http://127.0.0.1:9191/metrics", "/state/with space", "Ctrl-C"):
            assert text in shown
        # It is there to be copied, so it is one line.
        assert curl_line(made, 8181) in shown

    def test_without_metrics(self, capsys):
        show_panel(settings().model_copy(update={"metrics": MetricsSettings(enabled=False)}), 8181)
        assert "/metrics" not in capsys.readouterr().out


class TestState:
    def test_a_private_file(self, tmp_path):
        file = tmp_path / "api-key"
        write_private(file, "mfw_1")
        write_private(file, "mfw_2")
        assert read_private(file) == "mfw_2"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [found.name for found in tmp_path.iterdir()] == ["api-key"]

    def test_what_cannot_be_read_is_nothing(self, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff")
        (tmp_path / "empty").write_text("\n")
        assert [read_private(tmp_path / name) for name in ("missing", "binary", "empty", ".")] == [None] * 4

    def test_the_directory_of_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MFW_STATE_DIR", str(tmp_path))
        assert state_directory() == tmp_path
        assert key_file(tmp_path) == tmp_path / "api-key"

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(Refused, match="cannot make the state directory") as caught:
            private_directory(tmp_path / "file" / "below")
        assert caught.value.code is ExitCode.FAILED
