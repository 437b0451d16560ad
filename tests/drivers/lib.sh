# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Functions that the tests of DMA drivers share. Sourced in a guest that scripts/vm has
# started with --device. A test is a function; run_tests prints KTAP. A check that fails
# prints the reason, and the test goes on.
#
# FERRY_KERNEL is the kernel's name (base), FERRY_DMA_DRIVERS a directory with other builds of
# the drivers to test (laid out as drivers/dma).

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
kernel=${FERRY_KERNEL:-base}
drivers=${FERRY_DMA_DRIVERS:-$top/build/kernel-$kernel/drivers/dma}
client_ko=$top/build/drivers-$kernel/dmaclient.ko
client=/sys/module/dmaclient/parameters/run
dmatest=/sys/module/dmatest/parameters

failures=0

note() {
	echo "# $*"
}

bad() {
	note "$*"
	failures=$((failures + 1))
}

# expect WHAT GOT WANTED: fails unless the two are equal.
expect() {
	[ "$2" = "$3" ] || bad "$1 is '$2', not '$3'"
}

# run_tests NAME...: runs the tests. A name is a function, followed by its arguments after
# colons. The arguments of a script replace its list of all tests.
run_tests() {
	local n=0 rc=0 t words

	echo "TAP version 13"
	echo "1..$#"
	for t; do
		n=$((n + 1))
		failures=0
		IFS=: read -ra words <<<"$t"
		dmesg -C
		"${words[@]}"
		calm
		if [ "$failures" -eq 0 ]; then
			echo "ok $n ${words[*]}"
		else
			rc=1
			dmesg | tail -n 12 | sed 's/^/# log: /'
			echo "not ok $n ${words[*]}"
		fi
	done
	exit $rc
}

# port NAME: opens the port of a model, or of QEMU's monitor, and puts its descriptor in fd.
declare -A ports
port() {
	local p n

	fd=${ports[$1]:-}
	[ -z "$fd" ] || return 0
	for p in /sys/class/virtio-ports/*; do
		[ -e "$p/name" ] || continue
		n=$(<"$p/name")
		[[ $n == ferry.$1 || $n == ferry.dev*.$1 ]] || continue
		exec {fd}<>"/dev/${p##*/}"
		ports[$1]=$fd
		return 0
	done
	bad "no port for $1: start the guest with --device"
	return 1
}

# has_model KIND: succeeds if the guest has a model of this kind.
has_model() {
	grep -qs "^ferry\.dev[0-9]*\.$1$" /sys/class/virtio-ports/*/name
}

# ctl KIND REQUEST: sends a request to a model, and puts the answer in answer.
ctl() {
	local fd

	answer=""
	port "$1" || return
	echo "$2" >&"$fd"
	read -r -t 20 answer <&"$fd" || :
	[[ $answer == *'"ok":true'* ]] || bad "$1 says '$answer' to $2"
}

# inject KIND CHANNEL NTH TIMES FAULT: injects a fault from the NTH descriptor on.
inject() {
	ctl "$1" "{\"cmd\":\"inject\",\"channel\":$2,\"nth\":$3,\"times\":$4,\"fault\":{$5}}"
}

# struck KIND: succeeds if each injected fault has struck.
struck() {
	ctl "$1" '{"cmd":"faults"}'
	[[ $answer == *'"armed":[]'* ]]
}

# Clears faults and limits, so that none is left to the next test.
kinds="ptdma ae4dma"
calm() {
	local k

	for k in $kinds; do
		ctl "$k" '{"cmd":"clear"}'
		ctl "$k" '{"cmd":"release"}'
		ctl "$k" '{"cmd":"limit"}'
	done
}

# try_qmp REQUEST: sends a request to QEMU, and skips events. Succeeds if QEMU carried it out.
try_qmp() {
	local fd first=${ports[qmp]:-none}

	port qmp || return
	if [ "$first" = none ]; then
		read -r -t 20 answer <&"$fd"
		qmp '{"execute":"qmp_capabilities"}' || return
	fi
	echo "$1" >&"$fd"
	while read -r -t 20 answer <&"$fd"; do
		[[ $answer != *'"return"'* ]] || return 0
		[[ $answer != *'"error"'* ]] || return 1
	done
	return 1
}

qmp() {
	try_qmp "$1" && return
	bad "QEMU says '$answer' to $1"
	return 1
}

# plug_in NUMBER: plugs a model in that has been unplugged. QEMU accepts the name again only
# when it has forgotten the former device.
plug_in() {
	local vm

	vm=$(sed 's/.*ferry_vm=\([^ ]*\).*/\1/' /proc/cmdline)
	for _ in {1..100}; do
		try_qmp "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"vfio-user-pci\",\"id\":\"dev$1\",\"bus\":\"slot$1\",\"socket\":{\"type\":\"unix\",\"path\":\"$vm/dev$1.sock\"}}}" && return
		sleep 0.2
	done
	bad "QEMU says '$answer'"
}

# wait_for WHAT COMMAND...: waits up to 20 seconds until the command succeeds.
wait_for() {
	local what=$1

	shift
	for _ in {1..200}; do
		"$@" && return
		sleep 0.1
	done
	bad "$what: not within 20 seconds"
	return 1
}

# function_of DRIVER, channels_of DRIVER: print the PCI function of a driver, and its
# channels.
function_of() {
	local f

	for f in /sys/bus/pci/drivers/"$1"/0000:*; do
		[ -e "$f" ] && basename "$f" && return
	done
}

channels_of() {
	local c

	for c in /sys/class/dma/*; do
		[ "$c/device/driver" -ef "/sys/bus/pci/drivers/$1" ] && echo "${c##*/}"
	done | sort -V
}

# first DRIVER: prints the first channel.
first() {
	channels_of "$1" | head -n1
}

has_channel() {
	local c

	for c in /sys/class/dma/*; do
		[ ! "$c/device/driver" -ef "/sys/bus/pci/drivers/$1" ] || return 0
	done
	return 1
}

has_no_channel() {
	! has_channel "$1"
}

load() {
	[ -d "/sys/module/$1" ] || insmod "$2" "${@:3}" || bad "$1 does not load"
}

# Loads the module on which AMD's drivers are built, for any build of them.
load_library() {
	load virt_dma "$top/build/kernel-$kernel/drivers/dma/virt-dma.ko"
}

# load_drivers [QUEUES]: loads the drivers and the client.
load_drivers() {
	load_library
	load ptdma "$drivers/amd/ptdma/ptdma.ko"
	[ "$(channels_of ae4dma | wc -l)" = "${1:-2}" ] || rmmod ae4dma 2>/dev/null
	load ae4dma "$drivers/amd/ae4dma/ae4dma.ko" "max_hw_q=${1:-2}"
	[ -n "$(channels_of ptdma)" ] || bad "ptdma has no channel"
	[ "$(channels_of ae4dma | wc -l)" = "${1:-2}" ] || bad "ae4dma has not ${1:-2} channels"
	load dmaclient "$client_ko"
}

# seen_of MODE CHANNEL COUNT LENGTH, drop or late: runs the client, and puts its report in
# seen.
seen_of() {
	seen=""
	echo "$*" >"$client" || bad "dmaclient: $* failed"
	seen=$(<"$client")
	note "$seen"
}

# word NAME: prints a word of the report.
word() {
	[[ " $seen " =~ \ $1=([^ ]*)\  ]] && echo "${BASH_REMATCH[1]}"
}

# all_good COUNT: all copies were made, and each was reported once.
all_good() {
	expect "copies that were good" "$(word good)" "$1"
	honest
}

# No copy was reported as done that was not.
honest() {
	expect "copies wrongly said to be good" "$(word lies)" 0
	expect "copies wrongly said to be complete" "$(word status_lies)" 0
	expect "copies with several callbacks" "$(word twice)" 0
	expect "copies out of order" "$(word disorder)" 0
}

# dmatest_on ITERATIONS POLLED SIZE CHANNEL...: runs dmatest on the channels.
dmatest_on() {
	local c good

	[ $# -gt 3 ] || bad "no channel to test"
	load dmatest "$drivers/dmatest.ko"
	dmesg -C
	echo "$1" >$dmatest/iterations
	echo 20000 >$dmatest/timeout
	echo "$2" >$dmatest/polled
	echo "$3" >$dmatest/test_buf_size
	for c in "${@:4}"; do
		echo "$c" >$dmatest/channel
	done
	echo 1 >$dmatest/run
	cat $dmatest/wait >/dev/null
	echo 0 >$dmatest/run
	good=$(dmesg | grep -c ": summary $1 tests, 0 failures")
	note "dmatest: $good of $(($# - 3)) channels without a failure in $1 copies, polled=$2, size up to $3"
	expect "channels without a failure" "$good" $(($# - 3))
	dmesg | grep -a 'dmatest.*result' | head -n 3 | sed 's/^/# /'
}
