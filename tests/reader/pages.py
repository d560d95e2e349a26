"""What the sentences of a page have its reader do between the commands: files to write, other pages to
follow first. Of a page that is not named here, the reader has the build of `scripts/run` on the path and
its broker running."""

import dataclasses

# What is typed at a terminal.
PASSWORD = ["a good password", "a good password"]
TYPED = {
    "sudo grapnel-ctl passwd /etc/grapnel/users ann": PASSWORD,
    "grapnel-ctl passwd /etc/grapnel/users ann": PASSWORD,
}

INSTALLED = [
    "install -m 755 target/release/grapnel target/release/grapnel-ctl /usr/local/bin/",
    "install -d /usr/lib/grapnel/plugins",
    "install -m 755 target/release/libgrapnel_*.so /usr/lib/grapnel/plugins/",
]
RELEASE = "scripts/run --release --build-only"
PYTHON = "python3 -m pip install plugins/exhook/sdk/python"


@dataclasses.dataclass
class Page:
    # A broker runs, in another terminal.
    broker: bool = True
    # The build is on the path without a command of the page.
    on_path: bool = True
    # For each language the files that its blocks are, in their order; None for a block that is no file.
    written: dict = dataclasses.field(default_factory=dict)
    # Files of the reader's own.
    files: dict = dataclasses.field(default_factory=dict)
    # Files that another page shows: name, page, language and number of the block.
    files_of_others: list = dataclasses.field(default_factory=list)
    # Commands before the broker starts, and after.
    before: list = dataclasses.field(default_factory=list)
    with_broker: list = dataclasses.field(default_factory=list)


JAVA_SDK = "plugins/exhook/sdk/java/README.md"
PYTHON_SDK = "plugins/exhook/sdk/python/README.md"
FROM_AMQTT = "plugins/exhook/docs/moving-from-amqtt.md"
FROM_EMQX = "plugins/exhook/docs/moving-from-emqx.md"

PAGES = {
    "README.md": Page(
        broker=False, on_path=False,
        written={"rust": ["plugins/stamp/src/lib.rs"], "python": ["shout.py"]},
    ),
    "bench/README.md": Page(before=["apt-get update", "apt-get install -y --no-install-recommends mosquitto"]),
    "docs/src/access.md": Page(
        broker=False, on_path=False, before=[RELEASE, *INSTALLED, "install -d /etc/grapnel"],
        written={"toml": [None, "/etc/grapnel/grapnel.toml"]},
    ),
    "docs/src/first-minute.md": Page(broker=False, on_path=False),
    "docs/src/install.md": Page(broker=False, on_path=False),
    "docs/src/moving-from-amqtt.md": Page(
        files_of_others=[
            ("/srv/shop/shop.py", FROM_AMQTT, "python", 0),
            ("/srv/shop/amqtt.yaml", FROM_AMQTT, "yaml", 0),
        ],
    ),
    "docs/src/moving-from-emqx.md": Page(
        files_of_others=[
            ("/opt/hooks/hooks.py", FROM_EMQX, "python", 0),
            ("emqx_extension_hook.conf", FROM_EMQX, "text", 0),
        ],
    ),
    "docs/src/plugins-in-operation.md": Page(
        files_of_others=[("shout.py", "README.md", "python", 0)], before=[PYTHON],
    ),
    "docs/src/plugins/first-cpp.md": Page(written={"cpp": ["counter.cpp"]}),
    "docs/src/plugins/first-rust.md": Page(on_path=False),
    "docs/src/service.md": Page(
        broker=False, on_path=False, before=[RELEASE, *INSTALLED],
        written={"ini": ["/etc/systemd/system/grapnel.service"]},
    ),
    "plugin-abi/src/guide/c.md": Page(written={"c": ["stamp.c"]}),
    "plugins/acl-file/README.md": Page(),
    "plugins/auth-file/README.md": Page(before=["install -d /etc/grapnel"]),
    "plugins/exhook/PROTOCOL.md": Page(
        before=["python3 -m pip install msgpack"], written={"python": ["/srv/shout.py"]},
    ),
    "plugins/exhook/README.md": Page(
        files_of_others=[
            ("/srv/shop/hooks.py", PYTHON_SDK, "python", 0),
            ("exhook.toml", PYTHON_SDK, "toml", 0),
        ],
        before=[PYTHON],
    ),
    FROM_AMQTT: Page(
        written={"python": ["/srv/shop/shop.py"], "yaml": ["/srv/shop/amqtt.yaml"], "toml": ["exhook.toml"]},
    ),
    FROM_EMQX: Page(
        written={"python": ["/opt/hooks/hooks.py"], "text": ["emqx_extension_hook.conf"]},
    ),
    JAVA_SDK: Page(
        before=["mkdir -p /srv/shop"],
        written={"java": ["/srv/shop/Main.java"], "toml": ["/srv/shop/exhook.toml"]},
    ),
    PYTHON_SDK: Page(
        written={"python": ["/srv/shop/hooks.py"], "toml": ["/srv/shop/exhook.toml"]},
    ),
}
