#!/usr/bin/env bash
# What the scripts share: --help, messages, namespaces. Each script sources it first; it is not run by itself.
#
# usage: . scripts/lib.sh
#
# Sourced with --help as the first argument of the script, it prints the comment at the top of the script and exits.
# It sets `root` (the repository), `script` (the name for messages) and colours, which are empty if standard output is
# no terminal or NO_COLOR is set.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
script=scripts/${0##*/}
# Debian has nft, iptables and ip in directories that only root's PATH contains.
export PATH="$PATH:/usr/sbin:/sbin"

bold='' faint='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' faint=$'\e[2m' plain=$'\e[0m'
fi

# Prints the comment at the top of the script.
usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$root/$script"
}

# step TEXT: prints a heading.
step() {
    printf '%s==> %s%s\n' "$bold" "$1" "$plain"
}

# note TEXT..: prints less important lines.
note() {
    printf "$faint%s$plain\n" "$@"
}

# fail LINE..: prints an error and how to solve it, and exits.
fail() {
    printf "$script: %s\n" "$@" >&2
    exit 1
}

# fail_usage ERROR: the same for wrong arguments.
fail_usage() {
    printf '%s: %s; see %s --help\n' "$script" "$1" "$script" >&2
    exit 2
}

# skipped WHAT WHY [HINT..]: reports something that does not run here. scripts/test collects these for its last line.
skipped() {
    printf '==> SKIPPED (%s): %s\n' "$2" "$1"
    [ $# -lt 3 ] || printf '    %s\n' "${@:3}"
    [ -z "${PORTICO_SKIPPED:-}" ] || printf '%s (%s)\n' "$1" "$2" >>"$PORTICO_SKIPPED"
}

# require COMMAND..: fails if one of them is not installed.
require() {
    local name
    for name in "$@"; do
        command -v "$name" >/dev/null 2>&1 || fail "$name is not installed; run scripts/setup"
    done
}

# elapsed SECONDS: minutes and seconds.
elapsed() {
    printf '%sm%ss' "$(($1 / 60))" "$(($1 % 60))"
}

# set_enter FLAG..: sets `enter` to an unshare command with these flags. It fails, and sets `why`, if this machine does
# not permit such namespaces.
set_enter() {
    enter=(unshare "$@")
    # shellcheck disable=SC2034 # scripts print it
    why=$("${enter[@]}" true 2>&1)
}

# set_enter_netns: the same for a network namespace; without root, in a user namespace.
set_enter_netns() {
    if [ "$(id -u)" -eq 0 ]; then
        set_enter -n
    else
        set_enter -Urn
    fi
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
esac
