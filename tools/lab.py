"""`make lab`: JupyterLab on the first lecture, on the port that was asked for or not at all."""

import os
import socket
import sys

FIRST_LECTURE = "lectures/01_likelihood_score_fisher.ipynb"
PORTS = range(8888, 9000)


def port_trouble(port: str) -> str | None:
    """Why JupyterLab could not listen on this port, if it could not."""
    try:
        socket.create_server(("127.0.0.1", int(port))).close()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    except (ValueError, OverflowError):
        return "not a port number"
    return None


def main(port: str, flags: list[str]) -> None:
    trouble = port_trouble(port)
    if trouble:
        free = next((other for other in PORTS if not port_trouble(str(other))), "NUMBER")
        sys.exit(f"lab: port {port}: {trouble}; use another: make lab PORT={free}")
    # Without root_dir the file browser would end at the lectures' folder. No retries: this port or none.
    server = [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={os.getcwd()}"]
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", FIRST_LECTURE, *server, *flags])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
