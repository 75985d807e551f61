# Sourced by the scripts that install what tests run against; they set `script`, their name.

say() { printf '%s: %s\n' "$script" "$*" >&2; }

# Names what cannot be had and the tests that are left out for it. With CAIRN_TOOLS=required, as in CI, that is a failure: no test vanishes unseen.
missing() {
  say "no $*"
  if [ "${CAIRN_TOOLS:-}" = required ]; then exit 1; fi
}

# Debian packages, if that is possible here.
packages() {
  command -v apt-get >/dev/null || return 1
  local sudo=""
  if [ "$(id -u)" -ne 0 ]; then command -v sudo >/dev/null && sudo="sudo -n" || return 1; fi
  say "installing Debian packages: $*"
  { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$@"; } >&2
}

# Whether there is such a program, from the Debian packages that come after its name if need be.
program() {
  local name=$1
  shift
  command -v "$name" >/dev/null || { packages "$@" && command -v "$name" >/dev/null; }
}

# Whether there are Node.js and npm.
node_and_npm() { program node nodejs && program npm npm; }
