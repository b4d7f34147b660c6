//! What people and machines read at the end.

use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::{Value, json};

use super::measure::Measured;

/// A figure with what it has to be.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub what: &'static str,
    pub figure: f64,
    pub must: f64,
    pub goal: f64,
    /// More is better.
    pub upwards: bool,
    /// Digits after the point.
    #[serde(skip)]
    pub digits: usize,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Goal,
    Pass,
    Short,
}

impl Check {
    pub fn at_least(what: &'static str, figure: f64, must: f64, goal: f64) -> Self {
        Self::new(what, figure, must, goal, true)
    }

    pub fn at_most(what: &'static str, figure: f64, must: f64, goal: f64) -> Self {
        Self::new(what, figure, must, goal, false)
    }

    fn new(what: &'static str, figure: f64, must: f64, goal: f64, upwards: bool) -> Self {
        let reaches = |bar: f64| if upwards { figure >= bar } else { figure <= bar };
        let verdict = match (reaches(goal), reaches(must)) {
            (true, true) => Verdict::Goal,
            (false, true) => Verdict::Pass,
            _ => Verdict::Short,
        };
        // What is compared with 0.3 is a ratio; what with 200, milliseconds or MiB; with none, a count.
        let digits = match must.abs() {
            0.0 => 0,
            must if must < 10.0 => 3,
            _ => 1,
        };
        Self { what, figure, must, goal, upwards, digits, verdict }
    }
}

/// What came of a scenario.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub scenario: &'static str,
    pub checks: Vec<Check>,
    pub measured: Option<Measured>,
    pub notes: Vec<String>,
    pub details: Value,
    /// Why it could not be measured, or what was wrong with it.
    pub fault: Option<String>,
}

impl Finding {
    pub fn new(scenario: &'static str) -> Self {
        Self { scenario, checks: Vec::new(), measured: None, notes: Vec::new(), details: json!({}), fault: None }
    }

    /// One that was measured against nginx.
    pub fn ratio(scenario: &'static str, measured: Measured, must: f64, goal: f64) -> Self {
        let mut finding = Self::new(scenario);
        finding.checks.push(Check::at_least("delivered / nginx", measured.ratio, must, goal));
        let [least, most] = measured.ratio_spread;
        finding.notes.push(format!("ratio of the turns {least:.3} to {most:.3}"));
        if measured.kept_up.is_some() {
            finding.notes.push(format!(
                "with as much posted as goes the backlog grew, and {:.0}/s were delivered; what counts is the highest rate at \
                 which it does not grow",
                measured.flat_out_rate
            ));
        }
        if !measured.is_kept_up {
            finding.notes.push("THE BACKLOG GREW, at the delivered rate too".to_owned());
            finding.checks.push(Check::at_most("backlog grows", 1.0, 0.0, 0.0));
        }
        if measured.refused + measured.errors > 0 {
            finding.notes.push(format!("{} posts refused, {} without an answer", measured.refused, measured.errors));
        }
        finding.measured = Some(measured);
        finding
    }
}

/// The tables.
pub fn print(findings: &[Finding]) {
    println!("\n{}", verdicts(findings));
    if findings.iter().any(|finding| finding.measured.is_some()) {
        println!("\n{}", rates(findings));
    }
    for finding in findings {
        if let Some(measured) = &finding.measured {
            let each: Vec<String> =
                measured.cpu_micros.iter().map(|(name, micros)| format!("{name} {micros:.1}")).collect();
            println!(
                "{}: CPU µs per lead: {}; nginx {:.1}",
                finding.scenario,
                each.join(", "),
                measured.nginx_cpu_micros
            );
        }
        for note in &finding.notes {
            println!("{}: {note}", finding.scenario);
        }
        if let Some(fault) = &finding.fault {
            println!("{}: FAILED: {fault}", finding.scenario);
        }
    }
}

fn verdicts(findings: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["scenario", "what", "figure", "must", "goal", ""]);
    for finding in findings {
        for check in &finding.checks {
            let sign = if check.upwards { "≥" } else { "≤" };
            let digits = check.digits;
            table.add_row([
                finding.scenario.to_owned(),
                check.what.to_owned(),
                format!("{:.digits$}", check.figure),
                format!("{sign} {:.digits$}", check.must),
                format!("{sign} {:.digits$}", check.goal),
                match check.verdict {
                    Verdict::Goal => "PASS, goal",
                    Verdict::Pass => "PASS",
                    Verdict::Short => "short",
                }
                .to_owned(),
            ]);
        }
        if finding.fault.is_some() {
            table.add_row([finding.scenario, "", "", "", "", "FAILED"]);
        }
    }
    right(&mut table, 2..5);
    table
}

fn rates(findings: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "",
        "accepted/s",
        "delivered/s",
        "nginx/s",
        "ratio",
        "accept ms\np50 p99 p999",
        "post→partner ms\np50 p99 p999",
        "gateway\nµs/lead",
        "RSS\nMiB",
        "commits/s",
        "leads/\ncommit",
        "backlog",
    ]);
    for finding in findings {
        let Some(measured) = &finding.measured else { continue };
        let percentiles =
            |one: &super::histogram::Percentiles| format!("{:.1} {:.1} {:.1}", one.p50, one.p99, one.p999);
        let gateway: f64 =
            measured.cpu_micros.iter().filter(|(name, _)| name.starts_with("gateway")).map(|(_, micros)| micros).sum();
        table.add_row([
            finding.scenario.to_owned(),
            format!("{:.0}", measured.accepted_rate),
            format!("{:.0}", measured.delivered_rate),
            format!("{:.0}", measured.nginx_rate),
            format!("{:.3}", measured.ratio),
            percentiles(&measured.acceptance),
            percentiles(&measured.since_posted),
            format!("{gateway:.1}"),
            format!("{:.0}", measured.peak_mib),
            format!("{:.0}", measured.commits_per_second),
            format!("{:.2}", measured.leads_per_commit),
            format!("{}{}", measured.backlog_most, if measured.backlog_grew { ", grew" } else { "" }),
        ]);
    }
    right(&mut table, 1..12);
    table
}

fn right(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
