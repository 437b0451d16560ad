// SPDX-License-Identifier: GPL-2.0

//! DmaDrivers of dmaengine: any of them that can copy memory is a migrator, by the name of its
//! driver.
//!
//! Channels are requested exclusively, and tested: one that says that a copy was good that cannot
//! be made is refused, as it would lose content (I5), unless `vm.ferry.dma_untrusted` says
//! otherwise. So is one on which no such copy can be tried.
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

/// The channels of one driver.
struct DriverChannels {
    name: Name,
    /// The bus that devices come and go on: the first one's.
    bus: SetOnce<Bus>,
    shared: Arc<Shared>,
}

impl Keep for Watch<ChannelManager> {}

/// Requests the channels of a provider, tests them, and makes a migrator of them.
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
    // It does nothing before there are channels.
    let watch = KBox::new(Watch::new(first.bus(), manager.clone())?, GFP_KERNEL)?;
    for channel in channels {
        manager.add(KBox::new(channel, GFP_KERNEL)?);
    }
    engine::make(manager, watch, shared)
}

impl DriverChannels {
    /// Up to `most` channels that are free, and work. `ENODEV` if none is free.
    fn channels(&self, most: usize) -> Result<KVec<DmaChannel>> {
        // All of them first: one that does not work would be found again.
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
                // One bus is watched, and one driver on two of them is rare.
                pr_warn!(
                    "{}: {} is on another bus; left alone\n",
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

    /// Tests a channel. An error if the provider must not be used at all.
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
                "is not known to report failures, and no copy that must fail can be tried: no IOMMU translates for it, and not every driver bears a copy of 0 bytes"
            }
            Verdict::Broken => {
                pr_warn!("{which}: {name} does not copy; left alone\n");
                return Ok(false);
            }
            Verdict::NoAnswer => {
                pr_warn!("{which}: {name} does not answer; left alone\n");
                return Ok(false);
            }
        };
        if !self.shared.knobs.dma_untrusted() {
            pr_err!(
                "{which}: {name} {what}: refused, as data could be lost (vm.ferry.dma_untrusted=1 takes it all the same)\n"
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
            // Most devices of a bus are no engines, and looking for channels is not cheap: those
            // that do not answer are asked again.
            Event::Bound(device) if channel::offers(device, self.name()) => self.rescan_later(),
            Event::Bound(_) => {}
            Event::Halt => self.halt(),
            Event::Resume => self.resume(),
        }
    }
}
