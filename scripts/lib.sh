# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Functions and versions that the scripts share. Sourced, never run.

set -euo pipefail
unset MAKEFLAGS MFLAGS MAKELEVEL

# The kernel series Ferry is written for, and the suites the build root is
# made of. Nothing else names them; Documentation/testing says how to port.
# shellcheck disable=SC2034
{
KERNEL_SERIES=7.3
SUITE=trixie
BACKPORTS=trixie-backports
LLVM=19

# Oldest versions of tools that build Ferry.
MIN_RUSTC=1.85.0
MIN_BINDGEN=0.71.1
MIN_LIBCLANG=17.0.1
MIN_GCC=8.1
MIN_QEMU=10.1
}

# shellcheck disable=SC2034
{
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$TOP/build
LOGS=$BUILD/logs
ROOT=$BUILD/root
}

say() {
	printf '%s\n' "$*" >&2
}

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# elapsed SECONDS -> m:ss
elapsed() {
	printf '%d:%02d' $(($1 / 60)) $(($1 % 60))
}

# version_ge HAVE WANT
version_ge() {
	[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]
}

# revision -> the commit of the tree, with "-dirty" if files differ from it; nothing without git
revision() {
	git -C "$TOP" describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null || :
}

# need_space DIR GIB WHAT
need_space() {
	local have

	mkdir -p "$1"
	have=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1048576) }')
	[ "$have" -ge "$2" ] ||
		die "$3 needs $2 GiB free in $1, there are $have; free some or move the checkout to a larger disk"
}

# lock NAME: holds build/.lock-NAME until the script ends. Descriptor 9 is
# closed by the caller for children that outlive the script (QEMU).
lock() {
	mkdir -p "$BUILD"
	exec 9>"$BUILD/.lock-$1"
	if ! flock -n 9; then
		say "waiting for another run that holds build/.lock-$1"
		flock 9
	fi
}

# progress SECONDS LINES STEPS: how far a command is, in words, if STEPS says how many lines its
# log will have (0: unknown).
progress() {
	local rest

	if [ "$3" -eq 0 ] || [ "$2" -lt $(($3 / 50 + 1)) ]; then
		echo "$2 lines of log"
	elif [ "$2" -ge "$3" ]; then
		echo "99 %, nearly done"
	else
		rest=$(($1 * ($3 - $2) / $2))
		echo "$(($2 * 100 / $3)) %, about $(elapsed $rest) left"
	fi
}

# watched WHAT LOG CMD...: runs CMD with its output in LOG, reports every half
# minute how far it is (by STEPS, the number of lines LOG will have, if that is
# set), and on failure shows what went wrong.
watched() {
	local what=$1 log=$2 start=$SECONDS pid next=30 rc=0

	shift 2
	mkdir -p "$(dirname "$log")"
	say "$what (log: ${log#"$TOP"/})"
	"$@" >"$log" 2>&1 9>&- </dev/null &
	pid=$!
	trap 'kill '"$pid"' 2>/dev/null; exit 130' INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [ $((SECONDS - start)) -ge "$next" ]; then
			say "  $what: $(elapsed $((SECONDS - start))), $(progress $((SECONDS - start)) "$(wc -l <"$log")" "${STEPS:-0}"), last: $(tail -n1 "$log" | tr -s '[:space:]' ' ' | cut -c1-60)"
			next=$((next + 30))
		fi
	done
	wait "$pid" || rc=$?
	trap - INT TERM
	if [ "$rc" -ne 0 ]; then
		grep -nE '(^|[^a-z_])(error|Error|ERROR)[:[ ]|\*\*\*|No space left' "$log" | tail -n 10 >&2 || :
		say "--- last lines of ${log#"$TOP"/}:"
		tail -n 15 "$log" >&2
		die "$what failed after $(elapsed $((SECONDS - start))), see $log"
	fi
	say "  $what: done in $(elapsed $((SECONDS - start)))"
}

# enter SCRIPT ARGS...: goes on inside the build environment, once.
enter() {
	[ -n "${FERRY_ENV_ENTERED:-}" ] || exec "$TOP/scripts/env" run "$@"
}
