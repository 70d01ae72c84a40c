#!/bin/sh
# deps.sh GROUP - see to it that the Debian packages that a group of make targets needs are there.
#
# Quiet and quick (one dpkg-query) when nothing is missing. Otherwise installs them with apt-get, as
# root or through sudo where that asks for no password; a user who can do neither is told the one
# command, and make stops. On other distributions the compiler's own messages have to do.
set -eu

BUILD='gcc make libc6-dev binutils libzydis-dev libunwind-dev libmimalloc-dev libseccomp-dev acpica-tools'
RUN='apt dpkg tar xz-utils lz4 ca-certificates'
TEST='libcriterion-dev gcc-multilib qemu-system-x86 python3 util-linux clang-format debootstrap'
FUZZ='clang libclang-rt-dev'

case "$1" in
build) want=$BUILD ;;
run) want="$BUILD $RUN" ;;
test) want="$BUILD $RUN $TEST" ;;
fuzz) want="$BUILD $FUZZ" ;;
*)
    echo "deps.sh: unknown group '$1'" >&2
    exit 2
    ;;
esac

command -v dpkg-query >/dev/null || exit 0

# shellcheck disable=SC2086  # a list of words
have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $want 2>/dev/null || true)
missing=
for package in $want; do
    case "
$have
" in
    *"
$package installed
"*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo='sudo -n'
else
    echo "novt: these packages are missing:$missing" >&2
    echo "Install them with:" >&2
    echo "    sudo apt-get update && sudo apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

echo "novt: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install_missing()
{
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        $missing >"$log" 2>&1 </dev/null
}
# The package lists may be absent (a container image) or stale: refresh them once and try again.
if ! install_missing; then
    $sudo apt-get update -q >"$log" 2>&1 </dev/null || true
    if ! install_missing; then
        cat "$log" >&2
        echo "novt: apt-get could not install$missing" >&2
        exit 1
    fi
fi
