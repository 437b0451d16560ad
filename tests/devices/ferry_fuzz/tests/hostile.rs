// SPDX-License-Identifier: GPL-2.0

//! The fuzz targets' entry points under proptest.

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn ptdma(data in vec(any::<u8>(), 0..600)) {
        ferry_fuzz::ptdma(&data);
    }

    #[test]
    fn ae4dma(data in vec(any::<u8>(), 0..600)) {
        ferry_fuzz::ae4dma(&data);
    }

    #[test]
    fn plx(data in vec(any::<u8>(), 0..600)) {
        ferry_fuzz::plx(&data);
    }
}

proptest! {
    // A whole function, whose memory is compared at every step.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn sdxi(data in vec(any::<u8>(), 0..600)) {
        ferry_fuzz::sdxi(&data);
    }
}
