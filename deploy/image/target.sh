#!/bin/sh
# A static binary for the image's architecture, which the builder says in TARGETARCH (amd64, arm64), or for this machine's own;
# on Debian, on either of the two.
#
#   target.sh install      the compiler and C library for it, as root
#   target.sh build FILE   the binary, with the list of its crates inside (cargo auditable)
set -eu
arch=${TARGETARCH:-$(dpkg --print-architecture)}
case "$arch" in
  amd64) triple=x86_64-linux-gnu gcc=gcc-x86-64-linux-gnu ;;
  arm64) triple=aarch64-linux-gnu gcc=gcc-aarch64-linux-gnu ;;
  *) echo "target.sh: no target for $arch" >&2 && exit 1 ;;
esac
target=${triple%%-*}-unknown-linux-gnu
case "${1:-}" in
  install)
    libc=libc6-dev
    [ "$arch" = "$(dpkg --print-architecture)" ] || libc=libc6-dev-$arch-cross
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$gcc" "$libc" >/dev/null
    rustup target add "$target"
    ;;
  build)
    # A static program has no dlsym, by which the crate getrandom would look for the C library's function.
    export RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\""
    name=$(echo "$target" | tr a-z- A-Z_)
    export "CARGO_TARGET_${name}_LINKER=$triple-gcc" "CC_$(echo "$target" | tr - _)=$triple-gcc"
    cargo auditable build --profile dist --locked --target "$target"
    cp "${CARGO_TARGET_DIR:-target}/$target/dist/nodens" "$2"
    ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 64 ;;
esac
