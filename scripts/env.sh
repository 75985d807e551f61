# Sourced by the Makefile and the scripts: where things are built. Override CAIRN_CACHE to move all of it.
export CAIRN_CACHE="${CAIRN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cairn}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CAIRN_CACHE/target}"
# RocksDB is compiled once per machine (scripts/bootstrap) and linked by every profile from here.
CAIRN_ROCKSDB_VERSION="$(sed -n 's/^rocksdb = .*version = "=\([0-9.]*\)".*/\1/p' Cargo.toml)"
export ROCKSDB_LIB_DIR="$CAIRN_CACHE/rocksdb-$CAIRN_ROCKSDB_VERSION"
export ROCKSDB_STATIC=1
export CAIRN_ROCKSDB_VERSION
if [ -d "$HOME/.cargo/bin" ]; then export PATH="$HOME/.cargo/bin:$PATH"; fi
