// SPDX-License-Identifier: GPL-2.0

//! Result files for the tests. Their figures are invented.

use serde_json::{json, Value};

fn run(migrator: &str, folio_bytes: u64, ratio: f64, more: Value) -> Value {
    let mut run = json!({
        "migrator": migrator, "folio_bytes": folio_bytes, "total_bytes": 1u64 << 30,
        "gib_per_s": {"min": ratio / 4.0, "median": ratio / 2.0, "max": ratio},
        "ratio_to_off": ratio, "ratio_paired": ratio, "first_folio_us": null, "sys_s": 0.5,
        "user_s": 0.25, "bad_bytes": 0, "rounds": 5, "noise_of_off": 0.25
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        run[key] = value.clone();
    }
    run
}

pub fn bench() -> Value {
    let cost = json!({"descriptors_per_mib": 0.5, "mappings_per_mib": 1.0});
    let engine = json!({"part": "engines", "engine": {
        "share": "auto", "channels": 1, "model": {"bytes": 1}, "copied_share": 1.0, "cost": cost,
        "one_each": cost
    }});
    let sizes = || json!({"part": "sizes", "charge": {"workers_s": 2.0, "charged_s": 1.5}});
    let off = json!({"part": "sizes"});
    json!({
        "kernel": "7.3.4", "accel": "tcg", "cpus": 2, "date": "2026-01-31T12:00:00Z",
        "command": "scripts/bench --parts sizes,engines", "commit": "0123abcd4567",
        "cpu_model": "Emulated CPU", "host_cpu_model": "Some CPU", "host_kernel": "6.1.0",
        "host_cpus": 2, "host_load": 0.5, "region_bytes": 128 << 20,
        "runs": [
            run("off", 4096, 1.0, off.clone()), run("cpu", 4096, 1.25, sizes()),
            run("off", 2 << 20, 1.0, off), run("cpu", 2 << 20, 1.75, sizes()),
            run("off", 2 << 20, 1.0, json!({"part": "engines"})),
            run("ptdma", 2 << 20, 1.5, engine),
        ]
    })
}

pub fn native() -> Value {
    let run = |how: &str, workers: u32, ratio: f64| {
        json!({
            "how": how, "folio_bytes": 2 << 20, "batch_folios": 1, "workers": workers,
            "routine": "movsb", "warm": false, "latency": false, "total_bytes": 1,
            "gib_per_s": {"min": 1.0, "median": 2.0, "max": 3.0}, "samples": [2.0], "noise": 0.5,
            "ratio_to_stock": ratio, "batch_ratio_to_stock": null, "quiet_ratio_to_stock": null,
            "ratio_to_limit": null, "quiet_ratio_to_limit": null, "first_us": null, "turn_us": null,
            "batch_us": null, "settled_share": 1.0, "failed": 0, "bad_bytes": 0
        })
    };
    json!({
        "benchmark": "native",
        "machine": {
            "cpu_model": "Some CPU", "cpus": 4, "kernel": "6.1.0", "llc_bytes": 1,
            "hypervisor": true, "load_begin": 0.5, "load_end": 1.5, "steal": 0.03125
        },
        "kernel": "7.3.4", "cpus": 2, "date": "2026-01-30T12:00:00Z",
        "command": "scripts/bench-native rounds=9", "commit": "89ab89ab89ab", "rounds": 9,
        "set_bytes": 1, "wall_s": 1.0,
        "runs": [run("stock", 0, 1.0), run("early", 1, 2.25)], "failures": []
    })
}
