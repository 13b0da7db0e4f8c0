#!/bin/sh
# What a fresh Debian 12 needs to run the tests, in two steps with a boot between them:
#
#   provision.sh system KERNEL   as root: the kernel, and what the README asks for (git and rustup's own needs)
#   provision.sh tools KERNEL    as a user with sudo: rustup, then the set-up that every cargo xtask does
set -eu

step=${1:?system or tools}
kernel=${2:?6.1, 6.12 or newest}

system() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install --yes --no-install-recommends ca-certificates curl git rsync sudo
    case $kernel in
    6.1)
        apt-get install --yes --no-install-recommends linux-image-amd64
        ;;
    6.12)
        # Debian 12 has it beside its own, among the security updates.
        apt-get install --yes --no-install-recommends linux-image-6.12-amd64
        ;;
    newest)
        echo 'deb http://deb.debian.org/debian unstable main' >/etc/apt/sources.list.d/unstable.list
        # Only what is asked for by name, and what that needs.
        printf 'Package: *\nPin: release a=unstable\nPin-Priority: 50\n' >/etc/apt/preferences.d/unstable
        apt-get update
        apt-get install --yes --no-install-recommends --target-release unstable linux-image-amd64
        ;;
    *)
        echo "kernel $kernel: 6.1, 6.12 or newest" >&2
        exit 2
        ;;
    esac
    # GRUB boots the newest that is installed, and a machine only ever gets one kernel in addition to its box's.
}

tools() {
    case $kernel in
    newest) ;;
    *)
        case $(uname -r) in
        "$kernel".*) ;;
        *)
            echo "the kernel is $(uname -r), not $kernel: was the machine booted since it was installed?" >&2
            exit 1
            ;;
        esac
        ;;
    esac
    if ! [ -x "$HOME/.cargo/bin/cargo" ]; then
        curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs |
            sh -s -- -y --no-modify-path --profile minimal --default-toolchain none
    fi
    cd "$HOME/mqlb"
    # rust-toolchain.toml names the toolchain.
    PATH=$HOME/.cargo/bin:$PATH
    rustup toolchain install
    cargo xtask setup
}

case $step in
system) system ;;
tools) tools ;;
*)
    echo "step $step: system or tools" >&2
    exit 2
    ;;
esac
