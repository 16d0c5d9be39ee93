# Sourced by the Makefile's recipes: where builds go, so that clones share what takes long to build.
KODIAK_CACHE=${KODIAK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kodiak}
export KODIAK_CACHE
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$KODIAK_CACHE/target}
export PATH="$HOME/.cargo/bin:$PATH"

# RocksDB takes eleven minutes to compile, and Cargo does it again whenever features or flags change.
# What was compiled once is kept by version and linked from then on.
rocksdb_version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
rocksdb_lib=$KODIAK_CACHE/rocksdb-$rocksdb_version
if [ -z "${ROCKSDB_LIB_DIR:-}" ] && [ -e "$rocksdb_lib/librocksdb.a" ]; then
    export ROCKSDB_LIB_DIR="$rocksdb_lib" ROCKSDB_STATIC=1
fi
