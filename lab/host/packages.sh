# shellcheck shell=bash
# Debian packages for the lab, from an apt of its own: the host's installed packages and sources stay as they are.

SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
SETS=(qemu boot dom0 guest)

# The mirror: the user's, else the one that the host uses, else Debian's.
debian_mirror() {
    local sources=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources) found
    found=$(cat -- "${sources[@]}" 2>/dev/null | sed 's/#.*//' |
        grep -oE 'https?://[^[:space:]]+/debian/?([[:space:]]|$)' | head -n 1 || true)
    found=${VD_MIRROR:-${found:-http://deb.debian.org/debian}}
    printf '%s\n' "${found%%[[:space:]]*}"
}

# private_apt STATE COMMAND...: apt-get with its state below STATE. The host's proxy settings keep working.
private_apt() {
    local state=$1
    shift
    apt-get -qq -o Dir::State="$state" -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" \
        -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null -o APT::Architecture=amd64 -o APT::Install-Recommends=false \
        -o APT::Sandbox::User=root -o Debug::NoLocking=true "$@"
}

# Fills a directory with SET.list for every set (lines NAME=VERSION) and downloads those packages.
fetch_packages() {
    local directory=$1 state=$1/apt set debs=$VD_CACHE/debs
    [[ -e $KEYRING ]] || die "$KEYRING is missing: install debian-archive-keyring"
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$debs"
    : >"$state/status"
    echo "deb [signed-by=$KEYRING] $(debian_mirror) $SUITE main" >"$state/sources.list"
    say "reading the package lists of $(debian_mirror) $SUITE"
    private_apt "$state" update
    for set in "${SETS[@]}"; do
        resolve "$state" "$set" >"$directory/$set.list"
    done
    sort -u "$directory"/*.list >"$directory/all"
    download "$state" "$directory/all"
    rm -r "$state"
}

# resolve STATE SET: the packages that apt would install for a set, except those that the lab has no use for.
resolve() {
    local state=$1 set=$2 names wanted='.'
    mapfile -t names < <(list "$VD_LAB/packages.$set")
    # A kernel is booted here, not installed.
    [[ $set != boot ]] || wanted='^(linux-image-[0-9]|xen-hypervisor-)'
    private_apt "$state" --simulate install "${names[@]}" |
        sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*/\1=\2/p' | grep -E "$wanted" | unskipped
}

# Copies lines NAME=VERSION, without the packages of packages.skip.
unskipped() {
    local line pattern patterns
    mapfile -t patterns < <(list "$VD_LAB/packages.skip")
    while read -r line; do
        for pattern in "${patterns[@]}"; do
            # shellcheck disable=SC2053 # a pattern indeed
            [[ ${line%%=*} != $pattern ]] || continue 2
        done
        printf '%s\n' "$line"
    done
}

# download STATE LIST: puts the packages that are not there yet into the cache. apt checks their signatures.
download() {
    local state=$1 package missing=() partial=$VD_CACHE/debs/partial
    while read -r package; do
        [[ -n $(deb_file "$package") ]] || missing+=("$package")
    done <"$2"
    if ((${#missing[@]})); then
        say "downloading ${#missing[@]} packages"
        rm -rf "$partial"
        mkdir -p "$partial"
        (cd "$partial" && private_apt "$state" download "${missing[@]}")
        mv "$partial"/*.deb "$VD_CACHE/debs"
        rmdir "$partial"
    fi
}

# deb_file NAME=VERSION: the package's file in the cache, or nothing.
deb_file() {
    local version=${1#*=}
    compgen -G "$VD_CACHE/debs/${1%%=*}_${version//:/%3a}_*.deb" || true
}

# unpack SET DIRECTORY: unpacks a set's packages.
unpack() {
    local set=$1 directory=$2 package link
    # Debian's merged /usr: the packages have no /bin or /lib of their own.
    mkdir -p "$directory"/usr/{bin,sbin,lib,lib64}
    for link in bin sbin lib lib64; do
        ln -s "usr/$link" "$directory/$link"
    done
    while read -r package; do
        dpkg-deb --extract "$(deb_file "$package")" "$directory"
    done <"$PACKAGES/$set.list"
}

# Sets PACKAGES to the directory with the sets' lists, and sees to it that their packages are there.
need_packages() {
    local inputs=("$VD_LAB"/packages.{qemu,boot,dom0,guest,skip} "$VD_LAB/host/packages.sh") package
    cached PACKAGES packages "$(key "${inputs[@]}")" fetch_packages
    while read -r package; do
        [[ -n $(deb_file "$package") ]] || die "$package has gone from $VD_CACHE/debs: run again with --refresh"
    done <"$PACKAGES/all"
}
