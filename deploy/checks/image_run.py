"""Runs an image's command as a container's first process: its own user, no capabilities, volumes alone to write to.

Namespaces and mounts are made with util-linux; the network is this machine's.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.checks.image_build import Image
from deploy.checks.processes import CheckError, eventually, running

_SETUP = r"""
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=256m tmpfs "$root/tmp"
for volume in $VOLUMES; do
    mount -t tmpfs -o mode=755,uid="$OWNER",gid="$OWNER" tmpfs "$root$volume"
done
mount -o remount,bind,ro "$root"
if touch "$root/written" 2>"$root/tmp/refusal"; then
    echo "error: the root file system can be written to" >&2; exit 99
fi
cat "$root/tmp/refusal" >&2
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all \
    chroot --userspec="$OWNER:$OWNER" --groups= "$root" "$@"
"""


class Container:
    """A running image."""

    def __init__(self, image: Image, process: "subprocess.Popen[bytes]", output: Path, variables: list[str]) -> None:
        self.image = image
        self.process = process
        self._output = output
        self._variables = variables

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """The first process, by its number outside."""
        pids: list[str] = []
        while not pids:  # unshare has not forked yet
            if self.process.poll() is not None:
                raise CheckError(f"the container has ended: {self.output[-2000:]}")
            with contextlib.suppress(FileNotFoundError):
                pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text("ascii").split()
        return int(pids[0])

    @property
    def status(self) -> dict[str, str]:
        """What the kernel says of the first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run another program inside, as the same user."""
        owner = self.image.user.partition(":")[0]
        entered = [
            "setpriv",
            "--no-new-privs",
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--pid",
            "--root",
            "--wd=/",
        ]
        entered += [f"--setuid={owner}", f"--setgid={owner}", "/usr/bin/env", "-i", *self._variables, *command]
        return subprocess.run(entered, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 a check's own


@contextlib.contextmanager
def container(image: Image, folder: Path, variables: Mapping[str, str]) -> Iterator[Container]:
    """Run an image's own command with further variables of the environment."""
    given = [f"{name}={value}" for name, value in {**image.environment, **variables}.items()]
    output = folder / "container.txt"
    owner = image.user.partition(":")[0]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _SETUP, "setup", str(image.root)]
    command += ["/usr/bin/env", "-i", *given, *image.command]
    with running(command, output=output, environment={"VOLUMES": " ".join(image.volumes), "OWNER": owner}) as process:
        it = Container(image, process, output, given)
        eventually(lambda: it.status["Uid"].split()[0] == owner, "the command runs as its user", seconds=30)
        yield it
