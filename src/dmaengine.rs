// SPDX-License-Identifier: GPL-2.0

//! The migrators of dmaengine: each DMA driver that can copy memory is one, by its name.
//!
//! Channels are requested exclusively, and tested. A driver that reports success for a copy that
//! must fail is refused, because data could be lost (I5), and so is a driver on which no such copy
//! can be tried. `vm.ferry.dma_untrusted` permits both.
//!
//! Lock order: that of [`manager`](crate::engine::manager), then the locks of dmaengine.

#[allow(unsafe_code)]
mod channel;

use self::channel::{
    DmaChannel,
    Verdict, //
};
use crate::{
    engine::{
        self,
        channel::Queue,
        manager::{
            ChannelManager,
            ChannelSource, //
        },
    },
    kapi::bus::{
        Bus,
        Event,
        Watch,
        Watcher, //
    },
    migrator::{
        Keep,
        Made, //
    },
    names::Name,
    shared::Shared, //
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    },
};

/// The channel source of one DMA driver.
struct DriverChannels {
    name: Name,
    /// The bus of the first channel that was found, which is watched for devices.
    bus: SetOnce<Bus>,
    shared: Arc<Shared>,
}

impl Keep for Watch<ChannelManager> {}

/// Requests the channels of a driver, tests them, and creates the migrator that uses them.
///
/// # Errors
///
/// `ENODEV` if no channel is free, `EIO` if none passes the test, `EOPNOTSUPP` if the driver is
/// refused, which has been logged, or `ENOMEM`.
///
/// # Context
///
/// Sleeps.
pub(crate) fn make(name: &Name, shared: &Arc<Shared>) -> Result<Made> {
    let most = usize::try_from(shared.knobs.dma_channels()).unwrap_or(usize::MAX);
    let source = DriverChannels {
        name: *name,
        bus: SetOnce::new(),
        shared: shared.clone(),
    };
    let channels = source.channels(most)?;
    let first = channels.first().ok_or(EIO)?;
    let manager = ChannelManager::new(*name, most, KBox::new(source, GFP_KERNEL)?)?;
    // Before the channels are added, so that the removal of none of their devices is missed. Events
    // for a manager without channels have no effect.
    let watch = KBox::new(Watch::new(first.bus(), manager.clone())?, GFP_KERNEL)?;
    for channel in channels {
        manager.add(KBox::new(channel, GFP_KERNEL)?);
    }
    engine::make(manager, watch, shared)
}

impl DriverChannels {
    /// Requests up to `most` free channels, and returns those that pass the test.
    ///
    /// # Errors
    ///
    /// `ENODEV` if none is free; the error of [`Self::is_usable()`].
    fn channels(&self, most: usize) -> Result<KVec<DmaChannel>> {
        // All of them are requested first: a channel that fails the test and is released would be
        // found again.
        let mut found = KVec::new();
        let mut others = KVec::new();
        while found.len() < most {
            let Some(channel) = DmaChannel::request(&self.name) else {
                break;
            };
            let bus = self.bus.as_ref().copied().unwrap_or_else(|| {
                let bus = channel.bus();
                self.bus.populate(bus);
                bus
            });
            if channel.bus() != bus {
                // Only one bus is watched, and a driver of two buses is rare.
                pr_warn!(
                    "{}: {} is on another bus than its first channel; channel not used\n",
                    channel.name(),
                    self.name
                );
                others.push(channel, GFP_KERNEL)?;
                continue;
            }
            found.push(channel, GFP_KERNEL)?;
        }
        if found.is_empty() {
            return Err(ENODEV);
        }
        let mut good = KVec::with_capacity(found.len(), GFP_KERNEL)?;
        for mut channel in found {
            if self.is_usable(&mut channel)? {
                good.push(channel, GFP_KERNEL)?;
            }
        }
        Ok(good)
    }

    /// Tests a channel. Returns `false` if only this channel must not be used.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the driver must not be used at all, which has been logged; `ENOMEM`.
    fn is_usable(&self, channel: &mut DmaChannel) -> Result<bool> {
        let (name, which) = (&self.name, channel.name());
        if channel.bounces() {
            return Err(engine::refuse_bounces(name.as_str()));
        }
        let verdict = channel.self_test(name)?;
        let what = match verdict {
            Verdict::Good => {
                channel.set_trust(true);
                return Ok(true);
            }
            Verdict::FalseSuccess => "reports success for a copy that must fail",
            Verdict::RefusesTest => {
                "takes no copy that must fail, so it is not known whether it reports failures"
            }
            Verdict::Untestable => {
                "is not known to report failures, and no copy that must fail can be tried: no IOMMU translates for it, and not every driver supports a copy of 0 bytes"
            }
            Verdict::Broken => {
                pr_warn!("{which}: {name} does not copy; channel not used\n");
                return Ok(false);
            }
            Verdict::NoAnswer => {
                pr_warn!("{which}: {name} does not answer; channel not used\n");
                return Ok(false);
            }
        };
        if !self.shared.knobs.dma_untrusted() {
            pr_err!(
                "{which}: {name} {what}: refused, as data could be lost (set vm.ferry.dma_untrusted to 1 to use it all the same)\n"
            );
            return Err(EOPNOTSUPP);
        }
        pr_warn!("{which}: {name} {what}: taken all the same, data loss possible\n");
        channel.set_trust(false);
        Ok(true)
    }
}

impl ChannelSource for DriverChannels {
    fn find(&self, most: usize) -> Result<KVec<KBox<dyn Queue>>> {
        let channels = self.channels(most)?;
        let mut queues = KVec::with_capacity(channels.len(), GFP_KERNEL)?;
        for channel in channels {
            let queue: KBox<dyn Queue> = KBox::new(channel, GFP_KERNEL)?;
            queues.push(queue, GFP_KERNEL)?;
        }
        Ok(queues)
    }
}

impl Watcher for ChannelManager {
    fn event(&self, event: Event) {
        match event {
            Event::Unbind(device) => self.device_removing(device),
            Event::Unbound(device) => self.device_removed(device),
            // Most devices of a bus are no engines, and a rescan is not cheap: it tests channels
            // again that did not answer.
            Event::Bound(device) if channel::offers(device, self.name()) => self.rescan_later(),
            Event::Bound(_) => {}
            Event::Halt => self.halt(),
            Event::Resume => self.resume(),
        }
    }
}
