"""What hostile cells try. Each prints "tried", and "REACHED" where it got what it wanted."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def read(path):
    """Files only: the folders above the course's own packages have to exist in there."""
    return (
        f"import glob, os\nfor p in filter(os.path.isfile, glob.glob({str(path)!r})):\n"
        "    print('REACHED', open(p, 'rb').read(20))\nprint('tried')"
    )


def write(path):
    return f"try:\n    open({path!r}, 'w').write('x'); print('REACHED')\nexcept OSError as error: print('tried', error)"


READING = [
    read("/etc/passwd"),
    read(ROOT / "solutions/*/*.ipynb"),
    read(ROOT / "grader/*.py"),
    read(ROOT / "pyproject.toml"),
    read(Path("/", "root", ".[a-oq-z]*")),
    read("/home/*/*"),
    read("/var/lib/*/*"),
    read("/tmp/*/*"),
    "print('tried')\nif b'SECRET' in open('/proc/1/environ', 'rb').read(): print('REACHED')",
    read("/sys/kernel/*"),
    "import os\nprint('tried')\nif len([p for p in os.listdir('/proc') if p.isdigit()]) > 5: print('REACHED')",
    "import os\nprint('tried')\nif {'SHELL', 'USER', 'XDG_CACHE_HOME'} & set(os.environ): print('REACHED')",
]
WRITING = [
    write("/x"),
    write("/dev/x"),
    write("/opt/course/x"),
    write("/opt/course/course_lib/checks/__init__.py"),
    write(str(ROOT / ".venv/x")),
    write("/usr/x"),
    write("/proc/sys/kernel/hostname"),
    "import subprocess\nif subprocess.run(['unshare', '-U', 'true']).returncode == 0: print('REACHED')\nprint('tried')",
    "import os\ntry:\n    os.setuid(0); print('REACHED')\nexcept OSError: print('tried')",
]
CONNECT = """
import socket
try:
    with socket.create_connection(({host!r}, {port}), timeout=3): print('REACHED')
except OSError as error: print('tried', error)
"""
NETWORK = [
    "import socket\nprint('tried')\nif {name for _, name in socket.if_nameindex()} - {'lo'}: print('REACHED')",
    CONNECT.format(host="192.0.2.1", port=80),
]
PROCESSES = """
import os, time
number = 0
try:
    while number < 2000:
        if os.fork() == 0:
            time.sleep(60); os._exit(0)
        number += 1
except OSError:
    pass
print(number)
"""
DISK = """
import os
try:
    with open("/tmp/big", "wb") as file:
        for _ in range(64): file.write(b"x" * (1 << 20))
    print("REACHED one large file")
except OSError as error: print("tried", error)
total = 0
try:
    for folder in ("/tmp", "/dev/shm"):
        for i in range(40):
            with open(f"{folder}/{i}", "wb") as file: file.write(b"x" * (20 << 20))
            total += 20
except OSError as error: print("tried", error)
if total > 600: print("REACHED", total)
"""
MEMORY = "x = bytearray(6 << 30)"
