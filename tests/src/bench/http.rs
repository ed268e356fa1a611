//! HTTP/1.1 with connections kept alive: wrk against nginx, both from Debian's packages.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::figure::Figure;
use super::peer::{Process, local};
use super::processes::cpu_seconds;
use crate::pod::Pod;
use crate::settings;

/// Where nginx listens.
pub(super) const PORT: u16 = 9100;

/// What is missing for it.
pub(super) fn missing() -> Option<String> {
    let lacking: Vec<&str> = ["wrk", "nginx"]
        .into_iter()
        .filter(|program| !settings::is_installed(program))
        .collect();
    (!lacking.is_empty()).then(|| format!("not installed: {}", lacking.join(", ")))
}

/// Starts nginx in a pod.
pub(super) fn serve(pod: &Pod, folder: &Path) -> Result<Process> {
    fs::create_dir_all(folder)?;
    let file = folder.join("nginx.conf");
    let place = folder.display();
    fs::write(
        &file,
        format!(
            "daemon off;\nuser root;\nworker_processes 2;\npid {place}/nginx.pid;\n\
             error_log {place}/error.log;\nevents {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  keepalive_requests 1000000000;\n\
             client_body_temp_path {place}/body;\n  proxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi;\n  uwsgi_temp_path {place}/uwsgi;\n\
             scgi_temp_path {place}/scgi;\n\
             server {{\n    listen {PORT} backlog=4096;\n    listen [::]:{PORT} backlog=4096;\n\
             location / {{ return 200 \"{}\"; }}\n  }}\n}}\n",
            "interceptor ".repeat(10)
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(file);
    Process::start(command, pod.namespace(), &folder.join("log"), local(PORT)).context("nginx")
}

/// Takes one sample: requests per second, latency, and CPU time of the carriers.
pub(super) fn measure(
    client: &Pod,
    target: SocketAddr,
    carriers: &[u32],
    (connections, length): (usize, Duration),
) -> Result<Vec<Figure>> {
    // The first connection of a pair inside of a node takes the agent's path: it is not measured.
    client.run(|| crate::http::request(target, "GET", "/"))??;
    let cpu = cpu_seconds(carriers)?;
    let mut wrk = Command::new("wrk");
    wrk.args(["--latency", "-t2", &format!("-c{connections}")])
        .arg(format!("-d{}s", length.as_secs().max(1)))
        .arg(format!("http://{target}/"));
    let output = client.run(move || wrk.output())?.context("start wrk")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "wrk: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let cpu = cpu_seconds(carriers)? - cpu;
    let result = Wrk::parse(&said).with_context(|| format!("wrk: {said}"))?;
    let name = |kind: &str| format!("{kind}_{connections}");
    let mut figures = vec![
        Figure::new(name("http"), "1/s", result.rate),
        Figure::new(name("http_p50_us"), "µs", result.p50_us),
        Figure::new(name("http_p99_us"), "µs", result.p99_us),
    ];
    if !carriers.is_empty() {
        let cost = cpu / result.requests.max(1.0) * 1e4;
        figures.push(Figure::new(name("cpu_s_per_10k_http"), "s", cost));
    }
    Ok(figures)
}

#[derive(Debug, PartialEq)]
struct Wrk {
    requests: f64,
    rate: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Wrk {
    fn parse(said: &str) -> Option<Self> {
        let after = |label: &str| {
            let line = said.lines().find_map(|it| it.trim().strip_prefix(label))?;
            Some(line.trim())
        };
        let total = said.lines().find(|it| it.contains(" requests in "))?;
        Some(Self {
            requests: total.split_whitespace().next()?.parse().ok()?,
            rate: after("Requests/sec:")?.parse().ok()?,
            p50_us: microseconds(after("50%")?)?,
            p99_us: microseconds(after("99%")?)?,
        })
    }
}

/// A time as wrk writes it: `312.00us`, `1.20ms`, `2.01s`.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    units.into_iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    })
}

#[cfg(test)]
mod tests {
    use super::Wrk;

    #[test]
    fn what_wrk_says_is_understood() {
        let said = "Running 1s test @ http://10.64.2.10:9100/\n  2 threads and 64 connections\n\
                    \x20 Latency Distribution\n     50%  295.00us\n     75%  471.00us\n\
                    \x20    90%    0.87ms\n     99%    1.50ms\n\
                    \x20 214063 requests in 1.10s, 61.65MB read\n\
                    Requests/sec: 194706.31\nTransfer/sec:     56.08MB\n";
        let expected = Wrk {
            requests: 214_063.0,
            rate: 194_706.31,
            p50_us: 295.0,
            p99_us: 1500.0,
        };
        assert_eq!(Wrk::parse(said), Some(expected));
        assert_eq!(Wrk::parse("unable to connect"), None);
    }
}
