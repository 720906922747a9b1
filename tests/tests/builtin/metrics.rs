//! `builtin:metrics`.

use serde_json::json;

use crate::both;

#[test]
fn requests_are_counted_by_a_header() {
    both("metrics", json!({"header": "x-tenant", "values": ["blue"]})).run(|side| {
        for (tenant, path) in [("blue", "/bytes/1"), ("blue", "/bytes/1"), ("red", "/nowhere")] {
            side.get(path, &[("x-tenant", tenant)]);
        }
        side.counts(2.0, "requests_by_x_tenant_blue_2xx_total", &[]);
        side.counts(1.0, "requests_by_x_tenant_other_4xx_total", &[]);
    });
}
