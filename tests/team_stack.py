"""A team's services on this machine: PostgreSQL, SeaweedFS (S3) and an MLflow server with logins, all on loopback."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / ".venv-team" / "bin"
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
ADMIN, PASSWORD = "admin", "password-of-the-admin"
KEY, SECRET = "access-key-of-s3", "secret-key-of-s3"
BUCKET = "mlflow"
SECONDS_TO_START = 240


def missing() -> str:
    """What is not installed here; empty where all is."""
    found = {"PostgreSQL": bool(POSTGRESQL), ".venv-team": (TOOLS / "mlflow").exists() and (TOOLS / "weed").exists()}
    absent = [name for name, there in found.items() if not there]
    return f"{' and '.join(absent)} not installed: run .ci/services" if absent else ""


def free_ports(count: int) -> list[int]:
    """Ports that are free, and whose number plus 10000, which SeaweedFS takes too, is one as well."""
    held: list[socket.socket] = []
    ports: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 55_000):
        pair = [socket.socket(), socket.socket()]
        held += pair
        try:
            pair[0].bind(("127.0.0.1", port))
            pair[1].bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
        ports.append(port)
        if len(ports) == count:
            break
    for each in held:
        each.close()
    return ports


class TeamStack:
    """Everything lies in one folder; `close` ends every process that was started here."""

    def __init__(self, folder: Path, volumes: int = 8) -> None:
        self.folder, self.volumes = folder, volumes
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        database, self.server_port, *self._weed_ports = free_ports(6)
        self.database_port = database
        self.s3_port = self._weed_ports[-1]
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.s3 = f"http://127.0.0.1:{self.s3_port}"
        self.environment = {
            **os.environ,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": self.s3,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs the forms of this server",
        }

    def start(self) -> None:
        self.start_database()
        self.start_s3()
        self.start_server()

    def start_database(self) -> None:
        place, programs = self.folder / "postgres", POSTGRESQL[-1].parent
        place.mkdir()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(place, "postgres", "postgres")
        data = place / "data"
        as_user = ["su", "postgres", "-s", "/bin/sh", "-c"] if os.geteuid() == 0 else ["sh", "-c"]
        make = f"cd {place} && {programs}/initdb -D {data} -U mlflow -A trust > initdb.log"
        subprocess.run([*as_user, make], check=True, timeout=SECONDS_TO_START)
        options = f"-h 127.0.0.1 -p {self.database_port} -k {place}"
        run = f"cd {place} && exec {programs}/postgres -D {data} {options}"
        self._spawn("postgres", [*as_user, run])
        ready = [f"{programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.database_port)]
        self._wait_until("postgres", lambda: subprocess.run(ready, check=False).returncode == 0)
        create = [f"{programs}/createdb", "-h", "127.0.0.1", "-p", str(self.database_port), "-U", "mlflow", "mlflow"]
        subprocess.run(create, check=True, timeout=SECONDS_TO_START)

    def start_s3(self) -> None:
        place = self.folder / "s3"
        place.mkdir()
        credentials = {"accessKey": KEY, "secretKey": SECRET}
        identity = {"name": "team", "credentials": [credentials], "actions": ["Admin", "Read", "Write", "List"]}
        (place / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        master, volume, filer, s3 = self._weed_ports
        command = [str(TOOLS / "weed"), "server", f"-dir={place}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
        command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
        command += [f"-volume.max={self.volumes}", "-master.volumeSizeLimitMB=8", f"-s3.config={place / 's3.json'}"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        self._spawn("s3", command)
        self._wait_until("s3", lambda: self._s3(f"c.create_bucket(Bucket='{BUCKET}')"))

    def _s3(self, call: str) -> bool:
        """One call on boto3's client `c`; whether it succeeded."""
        program = (
            "import boto3, sys; from botocore.config import Config;"
            "c = boto3.client('s3', endpoint_url=sys.argv[1], config=Config(retries={'total_max_attempts': 1}));" + call
        )
        command = [str(TOOLS / "python"), "-c", program, self.s3]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def fill_s3(self) -> None:
        """Put files into MLflow's bucket until it takes no more."""
        put = f"[c.put_object(Bucket='{BUCKET}', Key=f'filler-{{n}}', Body=b'0' * 2**21) for n in range(200)]"
        assert not self._s3(put), "400 MiB were not too much"

    def free_s3(self) -> None:
        self._s3(f"[c.delete_object(Bucket='{BUCKET}', Key=f'filler-{{n}}') for n in range(200)]")

    def start_server(self) -> None:
        (self.folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{self.folder / 'logins.db'}\n"
            f"admin_username = {ADMIN}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
            encoding="utf-8",
        )
        command = [str(TOOLS / "mlflow"), "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--workers", "1"]
        command += ["--port", str(self.server_port), "--artifacts-destination", f"s3://{BUCKET}/artifacts"]
        command += ["--backend-store-uri", f"postgresql://mlflow@127.0.0.1:{self.database_port}/mlflow"]
        self._spawn("server", command)
        self._wait_until("server", self._answers)

    def _answers(self) -> bool:
        try:
            asked = f"{self.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
            login = base64.b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
            request = urllib.request.Request(asked, headers={"Authorization": f"Basic {login}"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            return error.code < 500  # it answers from its tables
        except OSError:
            return False

    def kill_server(self) -> None:
        self._end("server", signal.SIGKILL)

    def close(self) -> None:
        for name in list(self.processes):
            self._end(name, signal.SIGKILL if name != "postgres" else signal.SIGINT)

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        environment = {**self.environment, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(60)

    def _wait_until(self, name: str, condition) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while not condition():
            log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]
            assert self.processes[name].poll() is None, f"{name} has ended: {log}"
            assert time.monotonic() < deadline, f"{name} does not answer: {log}"
            time.sleep(0.2)
