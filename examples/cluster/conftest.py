"""Four servers on one network of the run, each in a sandbox of its own: Redis and its replica, a web application, nginx before it.

Look for: `isolate_factory` in fixtures of module scope, and the names by which the servers find each other.
"""

import shutil
import sys

import pytest

NEEDED = ("redis-server", "redis-cli", "nginx")
SHOP = {"network": "shop", "internal": True}

REDIS = [
    *("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/tmp"),
    *("--repl-timeout", "3", "--repl-ping-replica-period", "1", "--repl-diskless-sync-delay", "0"),
]


APPLICATION = """
import http.server, socket

class Cart(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with socket.create_connection(("replica", 6379)) as redis:
            redis.sendall(b"GET cart\\r\\n")
            answer = redis.recv(4096).splitlines()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer[1] if len(answer) > 1 else b"empty")

http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Cart).serve_forever()
"""

NGINX = """
daemon off; master_process off; pid /tmp/nginx.pid; error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
    server {
        listen 8080;
        location / { proxy_pass http://application:8000; }
        location /large { root /tmp; }
    }
}
"""


def pytest_collection_modifyitems(items):
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        reason = f"no {', '.join(missing)} here: apt install redis-server nginx-light"
        for item in items:
            if item.path.parent.name == "cluster":
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def primary(isolate_factory):
    box = isolate_factory(name="primary", net=SHOP)
    box.popen(REDIS)
    box.wait_for_port(6379)
    return box


@pytest.fixture(scope="module")
def replica(isolate_factory, primary):
    box = isolate_factory(name="replica", net=SHOP)
    box.popen([*REDIS, "--replicaof", "primary", "6379"])
    box.wait_for_port(6379)
    return box


@pytest.fixture(scope="module")
def web(isolate_factory, replica):
    """nginx, published on a port of the host's; the application behind it is on the shop's network alone."""
    application = isolate_factory(name="application", net=SHOP)
    application.popen([sys.executable, "-c", APPLICATION])
    application.wait_for_port(8000)
    box = isolate_factory(name="web", net=SHOP, publish=["8080"])
    box.run(["sh", "-c", "cat > /tmp/nginx.conf; head -c 600000 /dev/zero > /tmp/large"], input=NGINX.encode(), check=True)
    box.popen(["nginx", "-e", "stderr", "-c", "/tmp/nginx.conf"])
    box.wait_for_port(8080)
    return box


@pytest.fixture
def redis():
    """Runs a command of redis-cli inside a box and gives its answer."""

    def ask(box, *command):
        return box.run(["redis-cli", *command], check=True, timeout=10).stdout.decode().strip()

    return ask
