#!/usr/bin/env bash
# Installs on Debian the servers, clients, readers, languages and the browser of the
# end-to-end suite, and PostgreSQL for the outbox of fleets.
# Does nothing, and soon, where everything is there.
#
# Some packages are unpacked into a folder of their name, and not installed: Exim
# cannot be beside Postfix (Debian lets one package own port 25 and
# /usr/sbin/sendmail), Alertmanager would run, and WordPress would bring a web
# server and a database.
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
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends "$@" </dev/null >/dev/null
}

packages=()
# Python's own parser is a reader: the distribution's, not whichever comes first in PATH.
# libsasl2-modules: PLAIN and LOGIN for Postfix as a client; libnet-ssleay-perl: TLS for swaks.
for package in postfix dovecot-core chromium python3 postgresql \
	libsasl2-modules swaks libnet-ssleay-perl msmtp curl openssl php-cli php-mysql; do
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
promtool=prometheus/usr/bin/promtool
alertmanager=alertmanager/usr/bin/prometheus-alertmanager
wordpress=wordpress/usr/share/wordpress/wp-load.php
# unpack FOLDER FILE PACKAGE unpacks a package, unless the file is there.
unpack() {
	[ ! -e "$2" ] || return 0
	apt_get --version # for the list of packages
	rm -rf "$1" "$1.new"
	mkdir "$1.new"
	(cd "$1.new" && apt-get -qq download "$3" 2>/dev/null && dpkg-deb -x "$3"_*.deb . && rm -r -- *.deb usr/share/doc) # with an example in Go
	chmod -R u-s "$1.new" # Exim is started by root only
	mv "$1.new" "$1"
}
unpack exim "$exim" exim4-daemon-heavy
unpack prometheus "$promtool" prometheus
unpack alertmanager "$alertmanager" prometheus-alertmanager
# Debian's Alertmanager wants its templates there.
templates=/usr/share/prometheus/alertmanager
if [ ! -e "$templates/default.tmpl" ]; then
	"${as_root[@]}" mkdir -p "$templates"
	"${as_root[@]}" cp "alertmanager$templates"/*.tmpl "$templates"
fi
unpack wordpress "$wordpress" wordpress
if ldd "$exim" | grep -q 'not found'; then
	mapfile -t libraries < <(apt-cache depends exim4-daemon-heavy | sed -n 's/^  Depends: \(lib[^ ]*\)$/\1/p')
	apt_get install "${libraries[@]}"
fi

stamp=node/node_modules/.package-lock.json
if [ ! -e "$stamp" ] || [ node/package-lock.json -nt "$stamp" ]; then
	npm ci --prefix node --no-audit --no-fund --silent
	touch "$stamp"
fi

for tool in /usr/sbin/postfix /usr/sbin/dovecot /usr/bin/chromium /usr/bin/python3 "$exim" node \
	/usr/bin/swaks /usr/bin/msmtp /usr/bin/curl /usr/bin/openssl /usr/bin/php "$alertmanager" "$promtool"; do
	command -v "$tool" >/dev/null || { echo "$tool is missing after the installation" >&2; exit 1; }
done
if ldd "$exim" | grep 'not found'; then
	echo "Exim lacks libraries" >&2
	exit 1
fi
