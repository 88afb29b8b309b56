#!/bin/sh
# Lays out the root of weir's image: the binary, the libraries it needs, the system's authorities, and no more.
# usage: sh helm/rootfs.sh BINARY CONFIGURATION ROOT        on the Debian that BINARY was built on; ROOT is made
set -eu
binary=$1 configuration=$2 root=$3
weir_id=65532

mkdir -p "$root"
install -D -m 755 "$binary" "$root/usr/bin/weir"
strip --strip-unneeded "$root/usr/bin/weir"
install -D -m 644 "$configuration" "$root/etc/weir/weir.yaml"

# As ldd tells them, the loader among them: "NAME => /path (0x...)" or "/path (0x...)".
libraries=$(ldd "$binary" | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p')
for library in $libraries; do
    install -D -m 755 "$(readlink -f "$library")" "$root$library"
done

# Where OpenSSL looks when a configuration says `ca: system`.
authorities=/etc/ssl/certs/ca-certificates.crt
openssl_dir=$(openssl version -d | sed 's/^OPENSSLDIR: "\(.*\)"$/\1/')
install -D -m 644 "$authorities" "$root$authorities"
mkdir -p "$root$openssl_dir"
ln -s "$authorities" "$root$openssl_dir/cert.pem"

printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/sbin/nologin\nweir:x:%s:%s:weir:/:/sbin/nologin\n' "$weir_id" "$weir_id" >"$root/etc/passwd"
printf 'root:x:0:\nweir:x:%s:\n' "$weir_id" >"$root/etc/group"

# What is in it, for scanners, and under which terms.
mkdir -p "$root/var/lib/dpkg/status.d"
for file in $libraries "$authorities"; do
    case $file in
    "$authorities") package=ca-certificates ;;
    *) package=$(dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "$(readlink -f "$file")" | head -n 1) ;;
    esac
    package=${package%%:*}
    [ ! -e "$root/var/lib/dpkg/status.d/$package" ] || continue
    dpkg-query -s "$package" >"$root/var/lib/dpkg/status.d/$package"
    install -D -m 644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done
