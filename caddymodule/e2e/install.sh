#!/usr/bin/env bash
# Installs on Debian the servers, readers, languages and the browser of the end-to-end
# suite, and PostgreSQL for the outbox of fleets.
# Does nothing, and soon, where everything is there.
#
# Exim cannot be installed beside Postfix (Debian lets one package own port 25 and
# /usr/sbin/sendmail), so its files are unpacked into the folder exim.
set -euo pipefail
cd "$(dirname "$0")"

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

apt_updated=
apt_get() {
	if [ -z "$apt_updated" ]; then
		"${as_root[@]}" apt-get update -qq
		apt_updated=yes
	fi
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends "$@" </dev/null >/dev/null
}

packages=()
# Python's own parser is a reader: the distribution's, not whichever comes first in PATH.
for package in postfix dovecot-core chromium python3 postgresql curl php-cli; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || packages+=("$package")
done
if [ "${#packages[@]}" -gt 0 ]; then
	# Postfix's questions must not be asked, and its own instance is not wanted.
	echo "postfix postfix/main_mailer_type select No configuration" | "${as_root[@]}" debconf-set-selections
	# Neither is a PostgreSQL that runs: tests start their own.
	apt_get install postgresql-common
	"${as_root[@]}" sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
	apt_get install "${packages[@]}"
fi

exim=exim/usr/sbin/exim4
if ! id Debian-exim >/dev/null 2>&1; then
	"${as_root[@]}" useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin Debian-exim
fi
if [ ! -x "$exim" ]; then
	apt_get --version # for the list of packages
	rm -rf exim exim.new
	mkdir exim.new
	(cd exim.new && apt-get -qq download exim4-daemon-heavy 2>/dev/null && dpkg-deb -x exim4-daemon-heavy_*.deb . && rm -- *.deb)
	chmod u-s exim.new/usr/sbin/exim4 # it is started by root only
	mv exim.new exim
fi
if ldd "$exim" | grep -q 'not found'; then
	mapfile -t libraries < <(apt-cache depends exim4-daemon-heavy | sed -n 's/^  Depends: \(lib[^ ]*\)$/\1/p')
	apt_get install "${libraries[@]}"
fi

stamp=node/node_modules/.package-lock.json
if [ ! -e "$stamp" ] || [ node/package-lock.json -nt "$stamp" ]; then
	npm ci --prefix node --no-audit --no-fund --silent
	touch "$stamp"
fi

for tool in /usr/sbin/postfix /usr/sbin/dovecot /usr/bin/chromium /usr/bin/python3 curl php "$exim" node; do
	command -v "$tool" >/dev/null || { echo "$tool is missing after the installation" >&2; exit 1; }
done
if ldd "$exim" | grep 'not found'; then
	echo "Exim lacks libraries" >&2
	exit 1
fi
