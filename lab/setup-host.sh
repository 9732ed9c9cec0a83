#!/usr/bin/env bash
# Installs what the host needs to build and run the lab: Debian packages and a Rust target. Says first what is missing.
set -euo pipefail

lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=x86_64-unknown-none

installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

missing_packages() {
    local package
    sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' "$lab/packages.host" | while read -r package; do
        installed "$package" || printf '%s\n' "$package"
    done
}

install_packages() {
    local root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || {
            echo "setup-host.sh: run as root: apt-get install $*" >&2
            exit 1
        }
        root=(sudo)
    fi
    "${root[@]}" apt-get update
    "${root[@]}" apt-get install --yes --no-install-recommends "$@"
}

command -v apt-get >/dev/null || {
    echo "setup-host.sh: this needs Debian 12 or newer (apt-get is missing)" >&2
    exit 1
}
mapfile -t packages < <(missing_packages)
if ((${#packages[@]})); then
    echo "setup-host.sh: installing: ${packages[*]}" >&2
    install_packages "${packages[@]}"
fi

command -v rustup >/dev/null || {
    echo "setup-host.sh: rustup is missing: install Rust from https://rustup.rs" >&2
    exit 1
}
if ! rustup target list --installed | grep -qx "$target"; then
    echo "setup-host.sh: adding the Rust target $target" >&2
    rustup target add "$target"
fi
