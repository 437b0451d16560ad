// SPDX-License-Identifier: GPL-2.0

//! Files of a function in debugfs, `ferry/functions/<function>/`: its state, and the self-test.
//!
//! Locks: [`View::outcomes`], under which no other lock is taken. The other files take locks of
//! [`function`](crate::sdxi::function), one after the other.

use crate::sdxi::{
    function::Function,
    hw::{
        context::ContextLease,
        memory::leaked, //
    },
    selftest::{
        self,
        Outcome, //
    },
};
use core::str;
use ferry_core::sdxi::log::Entry;
use kernel::{
    debugfs::{
        Dir,
        Scope, //
    },
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::UserSliceReader, //
};

/// Data of the files of a function.
#[pin_data]
pub(super) struct View {
    function: Arc<Function>,
    /// The outcome of the last self-test of each context.
    #[pin]
    outcomes: Mutex<KVec<Outcome>>,
}

fn state(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let function = &view.function;
    writeln!(f, "driver {}", function.mode().name())?;
    writeln!(f, "function {}", function.state().name())?;
    match function.dev().node() {
        Some(node) => writeln!(f, "node {node}")?,
        None => writeln!(f, "node none")?,
    }
    writeln!(f, "interrupts {}", function.interrupts())?;
    let (starting, stopper) = function.with_control(|c| (c.starting, c.stopper));
    writeln!(f, "starts {}", starting.name())?;
    writeln!(f, "stops soft, {}", stopper.name())?;
    writeln!(f, "leaked {}", leaked())
}

fn capabilities(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let function = &view.function;
    let (caps, limits) = (&function.caps, &function.limits);
    writeln!(f, "version {}.{}", caps.major, caps.minor)?;
    writeln!(f, "function handle {:#x}", caps.sfunc)?;
    writeln!(f, "virtual function {}", u32::from(caps.virtual_function))?;
    writeln!(f, "doorbell stride {}", caps.stride)?;
    writeln!(f, "largest ring {}", caps.ring)?;
    writeln!(
        f,
        "largest buffer {}, used {}",
        1u64 << (21 + caps.max_buffer),
        limits.bytes()
    )?;
    writeln!(f, "largest AKey table {}", 256u64 << caps.max_akeys)?;
    writeln!(
        f,
        "highest context {}, used {}",
        caps.max_context, limits.max_context
    )?;
    writeln!(
        f,
        "optional groups {:#x}, used {:#x}",
        caps.groups, limits.groups
    )?;
    writeln!(f, "vectors {}", function.vectors)
}

fn contexts(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for context in view.function.contexts() {
        let inside = context.with(|inner| {
            let ring = inner.ring.as_ref();
            ring.map(|c| (inner.life, c.state(), c.indices(), c.outstanding()))
        });
        let Some((life, state, (done, published, begun), outstanding)) = inside else {
            continue;
        };
        write!(
            f,
            "context {}: {}, device says {}, done {done}, write index {published}, read index \
             {begun}, outstanding {outstanding}",
            context.number(),
            life.name(),
            state.name(),
        )?;
        for (name, n) in context.counters.all() {
            write!(f, ", {name} {n}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn errors(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    view.function.with_control(|control| {
        for words in &control.logged {
            if let Some(entry) = Entry::decode(words) {
                writeln!(f, "{entry}")?;
            }
        }
        Ok(())
    })
}

fn counters(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (name, n) in view.function.counters.all() {
        writeln!(f, "{name} {n}")?;
    }
    Ok(())
}

fn show_test(view: &View, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("# write \"CONTEXT COUNT LENGTH\"\n")?;
    for outcome in view.outcomes.lock().iter() {
        write!(f, "{outcome}")?;
    }
    Ok(())
}

/// Runs a self-test on a context that is not leased, and stores its outcome.
fn test(view: &View, number: u16, count: u64, length: usize) -> Result {
    let lease = ContextLease::new(view.function.context(number)?).ok_or(EBUSY)?;
    let outcome = selftest::run(&view.function, &lease, count, length);
    view.function.release(&lease);
    let outcome = outcome?;
    if let Some(place) = (view.outcomes.lock()).get_mut(usize::from(number - 1)) {
        *place = outcome;
    }
    Ok(())
}

fn run_test(view: &View, reader: &mut UserSliceReader) -> Result {
    let mut text = [0; 64];
    let len = reader.len();
    let text = text.get_mut(..len).ok_or(EINVAL)?;
    reader.read_slice(text)?;
    let text = str::from_utf8(text).map_err(|_| EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let mut number = || -> Result<u64> {
        let word = words.next().ok_or(EINVAL)?;
        word.parse().map_err(|_| EINVAL)
    };
    let (context, count, length) = (number()?, number()?, number()?);
    if words.next().is_some() {
        return Err(EINVAL);
    }
    test(
        view,
        u16::try_from(context)?,
        count,
        usize::try_from(length)?,
    )
}

/// Creates the files of a function, which last until the returned scope is dropped.
pub(super) fn files(
    dir: &Dir<crate::LocalModule>,
    function: &Arc<Function>,
) -> Result<Pin<KBox<Scope<View>>>> {
    let mut outcomes = KVec::with_capacity(function.contexts().len(), GFP_KERNEL)?;
    for _ in function.contexts() {
        outcomes.push(Outcome::default(), GFP_KERNEL)?;
    }
    let view = pin_init!(View {
        function: function.clone(),
        outcomes <- new_mutex!(outcomes, "sdxi::View::outcomes"),
    });
    let name = function.dev().name();
    KBox::pin_init(
        dir.scope(view, name, |view, dir| {
            dir.read_callback_file(c"state", view, &state);
            dir.read_callback_file(c"capabilities", view, &capabilities);
            dir.read_callback_file(c"contexts", view, &contexts);
            dir.read_callback_file(c"errors", view, &errors);
            dir.read_callback_file(c"counters", view, &counters);
            dir.read_write_callback_file(c"selftest", view, &show_test, &run_test);
        }),
        GFP_KERNEL,
    )
}
