#!/bin/sh
# fetch-i386.sh BUILD FLAVOUR - an unmodified Debian i386 kernel and a static busybox.
#
# FLAVOUR is 686 or 686-pae. Afterwards the cache ($NOVT_GUEST_CACHE, else BUILD/guests) holds
#
#   vmlinuz-FLAVOUR  the bzImage as the package has it
#   vmlinux-FLAVOUR  the ELF that is compressed in it (for PVH boots and debuggers)
#   busybox          from busybox-static
#
# and nothing is done when it already does. The machine's apt configuration is read (mirrors,
# proxies) but not changed: lists, caches and status are private to the cache. Where the machine's
# own sources do not have the packages, Debian 12's are asked. No privileges are needed.
set -eu

build=$1
flavour=$2
here=$(dirname "$0")
cache=${NOVT_GUEST_CACHE:-$build/guests}

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/lock"
flock 9

[ -s "$cache/vmlinuz-$flavour" ] && [ -s "$cache/vmlinux-$flavour" ] && [ -s "$cache/busybox" ] &&
    exit 0

fail()
{
    echo "fetch-i386: $*" >&2
    [ ! -s "$cache/apt.log" ] || tail -n 20 "$cache/apt.log" >&2
    exit 1
}

# apt TOOL ARGS...: with a state of its own, as if on an i386 machine with nothing installed.
apt()
{
    tool=$1
    shift
    "$tool" -q -oAPT::Architecture=i386 -oAPT::Architectures=i386 \
        -oDir::State::Lists="$cache/apt/lists" -oDir::Cache="$cache/apt/cache" \
        -oDir::State::status=/dev/null -oAPT::Sandbox::User=root -oAcquire::Languages=none \
        -oAcquire::Retries=3 ${sources:+-oDir::Etc::SourceList="$sources"} \
        ${sources:+-oDir::Etc::SourceParts=/dev/null} "$@" 2>>"$cache/apt.log"
}

# The package that a package without a version of its own stands for, e.g. linux-image-686.
kernel_package()
{
    apt apt-cache depends "linux-image-$flavour" | awk '$1 == "Depends:" && /linux-image-/ { print $2; exit }'
}

# The update may fail for some index and still have what is needed: only the outcome counts.
find_package()
{
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial"
    package=$(kernel_package) || package=
    [ -n "$package" ] && return 0
    apt apt-get update >>"$cache/apt.log" </dev/null || true
    package=$(kernel_package) || package=
    [ -n "$package" ]
}

fetch()
{
    (cd "$cache/unpack" && apt apt-get download "$1" >>"$cache/apt.log" </dev/null) || return 1
    for deb in "$cache/unpack/$1"_*.deb; do
        dpkg-deb -x "$deb" "$cache/unpack/$1" && rm -f "$deb"
    done
}

echo "Fetching Debian's i386 kernel ($flavour) and busybox into ${cache##"$PWD"/} ..."
: >"$cache/apt.log"
sources=
if ! find_package; then
    rm -rf "$cache/apt"
    mkdir -p "$cache/apt"
    sources=$cache/apt/sources.list
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keyring" ] && signed="[signed-by=$keyring] " || signed=
    echo "deb ${signed}http://deb.debian.org/debian bookworm main" >"$sources"
    find_package || fail "no mirror has linux-image-$flavour for i386; apt said:"
fi

rm -rf "$cache/unpack"
mkdir -p "$cache/unpack"
fetch "$package" || {
    # Lists that are older than the mirror's contents name files that are gone.
    apt apt-get update >>"$cache/apt.log" </dev/null || true
    package=$(kernel_package)
    fetch "$package" || fail "cannot download $package; apt said:"
}
version=${package#linux-image-}
boot=$cache/unpack/$package/boot
if [ ! -s "$cache/busybox" ]; then
    fetch busybox-static || fail "cannot download busybox-static; apt said:"
    mv "$cache/unpack/busybox-static/bin/busybox" "$cache/busybox"
fi
"$here/extract-vmlinux" "$boot/vmlinuz-$version" "$cache/vmlinux-$flavour"
mv "$boot/vmlinuz-$version" "$cache/vmlinuz-$flavour"
rm -rf "$cache/unpack" "$cache/apt.log"
