# shellcheck shell=bash
# Functions that install what the scripts need and the machine lacks. The other scripts source this
# file; it does nothing by itself.

# Read by the scripts that source this one.
# shellcheck disable=SC2034
PROFILE=checked
# shellcheck disable=SC2034
TARGET=${CARGO_TARGET_DIR:-target}

say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "needs root for: $*. Run that as root, then try again."
  fi
}

need_rust() {
  # rustup puts cargo there; a fresh login shell may not have read its profile yet.
  if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
  fi
  command -v cargo >/dev/null || fail "needs Rust and finds no cargo. Install rustup (rustup.rs), then try again."
}

# need_packages COMMAND:PACKAGE...: installs the Debian package of each command that is missing.
need_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ "${#missing[@]}" -eq 0 ] && return
  install_packages "${missing[@]}"
}

install_packages() {
  command -v apt-get >/dev/null ||
    fail "needs $* and finds no apt-get to install them. Install them by hand, then try again."
  say "installing $* (apt-get)"
  as_root apt-get update -qq || fail "apt-get update failed."
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install $*."
}

# What every build needs: a C compiler for mimalloc and liburing, and git, which glommio's build
# script calls.
need_build_tools() {
  need_rust
  need_packages cc:gcc git:git
  [ -e /usr/include/stdio.h ] || install_packages libc6-dev
}

NEXTEST=0.9.143
need_nextest() {
  cargo nextest --version >/dev/null 2>&1 && return
  say "installing cargo-nextest $NEXTEST (cargo install; takes some minutes)"
  cargo install --locked --quiet cargo-nextest --version "$NEXTEST" --no-default-features --features default-no-update ||
    fail "cargo could not install cargo-nextest $NEXTEST."
}

# Seconds as "3 min 20 s".
duration() {
  if [ "$1" -ge 60 ]; then printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); else printf '%d s' "$1"; fi
}
