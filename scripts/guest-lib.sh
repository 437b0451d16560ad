# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Functions for programs in a guest of scripts/vm; sourced in the top directory.

# The drivers of the models that the guest has (scripts/vm --device).
engines() {
	local dir=build/kernel-${FERRY_KERNEL:-base}/drivers/dma kind driver

	for kind in ptdma ae4dma plx; do
		grep -qs "\.$kind$" /sys/class/virtio-ports/*/name || continue
		# The library that AMD's drivers are built on.
		[ "$kind" = plx ] || [ -d /sys/module/virt_dma ] || insmod "$dir/virt-dma.ko" || return
		set --
		case $kind in
		ae4dma)
			# It uses the functions of the other driver.
			[ -d /sys/module/ptdma ] || insmod "$dir/amd/ptdma/ptdma.ko" || return
			driver=amd/ae4dma/ae4dma
			set -- max_hw_q=4
			;;
		plx) driver=plx_dma ;;
		*) driver=amd/$kind/$kind ;;
		esac
		[ ! -d "/sys/module/${driver##*/}" ] || continue
		insmod "$dir/$driver.ko" "$@" || return
		translated "${driver##*/}" || return
	done
}

# A test proves nothing behind an IOMMU that lets everything through (scripts/vm --iommu).
translated() {
	grep -qw intel_iommu=on /proc/cmdline || return 0
	grep -q DMA "/sys/bus/pci/drivers/$1"/0000:*/iommu_group/type
}

# load_ferry FILE: the module, and the drivers that it needs. SDXI functions of guests are for it.
load_ferry() {
	engines || return
	insmod "$1" sdxi_bind=1 || return
	! grep -qs '\.sdxi$' /sys/class/virtio-ports/*/name || translated ferry_sdxi
}
