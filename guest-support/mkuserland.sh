#!/bin/sh
# mkuserland.sh BUILD - a Debian 12 userland (amd64) as a directory and as an initramfs.
#
# debootstrap installs Debian's minimal system and the packages below. Afterwards the cache
# ($NOVT_GUEST_CACHE, else BUILD/guests) holds
#
#   userland/       the system, for chroot: what runs natively is the reference for tests
#   userland.cpio   the same files as the kernel unpacks them, uncompressed; it has no /init
#   userland.recipe the checksum of the recipe that made them; last, so that it says "complete"
#
# and nothing is done when they are there and this recipe has not changed. Documentation, locales,
# package lists and what link-time optimization and the sanitizers need are left out. Equal packages
# give equal archives: times that the installation made are set back to the date of Debian's own
# release file. Takes about a minute. debootstrap needs root: other users get status 3 and a message.
set -eu

PACKAGES=gcc,libc6-dev,python3,perl,openssl,gzip,xz-utils

build=$1
cache=${NOVT_GUEST_CACHE:-$build/guests}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
tree=$cache/userland
recipe=$(cat "$0" | sha256sum)

exec 9>"$cache/lock"
flock 9
[ "$(cat "$tree.recipe" 2>/dev/null)" = "$recipe" ] && exit 0

[ -x "$build/tools/mkcpio" ] || {
    echo "mkuserland: no $build/tools/mkcpio; \`make tools\` makes it" >&2
    exit 2
}
if [ "$(id -u)" != 0 ]; then
    echo "mkuserland: debootstrap has to be run by root, to make a Debian userland in $cache;" >&2
    echo "mkuserland: run 'make userland' as root once, or do without the tests that boot it" >&2
    exit 3
fi

# Where this machine's apt gets Debian 12 from.
mirror()
{
    apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "bookworm" { print $1; exit }'
}

fail()
{
    echo "mkuserland: $*" >&2
    tail -n 20 "$tree.log" >&2
    exit 1
}

# Outside links/cgroup of a chroot, services are never started; debootstrap sees to that.
install_system()
{
    rm -rf "$tree" "$tree.cpio" "$tree.recipe" "$tree.new"
    site=$(mirror) || site=
    debootstrap --variant=minbase --arch=amd64 --include="$PACKAGES" bookworm "$tree.new" \
        "${site:-http://deb.debian.org/debian}" >"$tree.log" 2>&1 </dev/null ||
        fail 'debootstrap failed; it said:'
}

# What made the system is in its package lists, so the date is taken before they go.
trim_system()
{
    cd "$tree.new"
    date=$(sed -n 's/^Date: //p' var/lib/apt/lists/*Release | head -n 1)
    rm -rf var/cache/apt var/lib/apt/lists var/log var/cache/debconf usr/share/doc usr/share/man \
        usr/share/info usr/share/locale usr/share/lintian usr/share/zoneinfo \
        usr/lib/python3.11/pydoc_data etc/hostname etc/resolv.conf
    rm -f usr/bin/*-lto-dump-* usr/bin/*-dwp usr/bin/*-ld.gold usr/bin/perl5.36.0
    find usr/lib \( -name lto1 -o -name 'lib[altu]*san*' -o -name CORE \) -prune -exec rm -rf {} +
    mkdir -p var/log var/lib/apt/lists etc/novt
    find . -newermt "$date" -exec touch -h -d "$date" {} +
    cd "$OLDPWD"
}

echo "Installing a Debian 12 userland into ${tree##"$PWD"/} ..."
install_system
trim_system
mv "$tree.new" "$tree"
{
    echo "tree $tree"
    echo 'nod dev/console 600 c 5 1'
} | "$build/tools/mkcpio" >"$tree.cpio"
rm -f "$tree.log"
echo "$recipe" >"$tree.recipe"
