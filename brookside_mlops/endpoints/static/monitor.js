// Monitoring on the page: what the monitor saw last. It uses the small tools of page.js.
"use strict";

const STALE = 180; // s since the last look after which nobody seems to look any more
const KINDS = { critical: "critical", error: "error", warning: "warning" };
const HOUR = [
  ["requests", (hour) => number(hour.requests, 0)],
  ["req/s", (hour) => number(hour.rate, hour.rate >= 100 ? 0 : hour.rate >= 1 ? 1 : 2)],
  ["errors", (hour) => share(hour.error_rate)],
  ["refused", (hour) => share(hour.refused_rate)],
  ["available", (hour) => share(hour.availability)],
  ["P50 ms", (hour) => spread(hour.p50_ms)],
  ["P95 ms", (hour) => spread(hour.p95_ms)],
  ["P99 ms", (hour) => spread(hour.p99_ms)],
];
const FIELDS = ["requests", "rate", "error_rate", "refused_rate", "availability", "p50_ms", "p95_ms", "p99_ms"];

const share = (value) => `${number(100 * value, value > 0.999 && value < 1 ? 2 : 1)} %`;
const time = (seconds) => new Date(1000 * seconds).toISOString();
const moment = (seconds) => `${time(seconds).slice(0, 10)} ${time(seconds).slice(11, 16)} UTC`;

let looked = 0;

function makeAlert() {
  const parts = ["severity", "rule", "since", "text"].map((name) => el("span", { class: name }));
  return el("li", {}, ...parts);
}

function fillAlert(node, alert) {
  const [severity, rule, since, text] = node.children;
  node.dataset.severity = alert.open ? alert.severity : "pending";
  write(severity, alert.open ? KINDS[alert.severity] : "pending");
  write(rule, alert.rule);
  write(since, `since ${moment(alert.since)}`);
  const notes = [alert.text, alert.held, alert.flapping ? "flapping: it ends after half an hour of calm" : "",
    alert.missing ? `no data since ${moment(alert.missing)}` : ""];
  write(text, notes.filter((note) => note).join("; "));
}

function makeNumber([name]) {
  return el("div", {}, el("dt", {}, name), el("dd"));
}

function drawHour(svg, history) {
  const rates = history.map((part) => part.rate);
  const most = Math.max(...rates.map((rate) => rate ?? 0), 0);
  svg.toggleAttribute("hidden", !most); // an SVG has no property of that name
  if (!most) return;
  const [wide, high] = [120 / history.length, 30];
  const top = (rate) => (32 - (high * rate) / most).toFixed(2);
  let line = "";
  rates.forEach((rate, at) => {
    if (rate === null) return;
    line += `${at && rates[at - 1] !== null ? "L" : "M"}${(at * wide).toFixed(2)} ${top(rate)}H${((at + 1) * wide).toFixed(2)}`;
  });
  svg.replaceChildren(
    el("path", { class: "base", "vector-effect": "non-scaling-stroke", d: "M0 33H120" }),
    el("path", { class: "line", "vector-effect": "non-scaling-stroke", d: line }),
  );
  svg.setAttribute("aria-label", `Requests per second in the last hour: at most ${spread(most)} in five minutes.`);
}

const WHY = {
  refused: "400 and the like, which the caller has to mend", overload: "429, too many at once",
  failed: "500", unavailable: "502 and 503, nobody to answer", timeout: "504, no answer in time",
};

function unanswered(page) {
  const kinds = Object.entries(page.monitor?.hour.categories ?? {});
  const asked = kinds.map(([kind, count]) => `${number(count, 0)} ${kind} (${WHY[kind] ?? kind})`);
  const lost = [["rows of the log", page.lost], ["samples", page.samples_lost]].filter(([, count]) => count);
  return [
    asked.length ? `Not answered in the last hour: ${asked.join(", ")}.` : "",
    lost.length ? `Lost since the server began: ${lost.map(([name, count]) => `${number(count, 0)} ${name}`).join(", ")}.` : "",
  ].filter((line) => line);
}

function showMonitor(page) {
  const { monitor: view, endpoint } = page;
  looked = view?.at ?? 0;
  const alerts = view?.alerts ?? [];
  const open = alerts.filter((alert) => alert.open);
  const worst = ["critical", "error", "warning"].find((kind) => open.some((alert) => alert.severity === kind));
  $("monitor").dataset.worst = worst ?? "";
  list($("open-alerts"), alerts, (alert) => alert.rule, makeAlert, fillAlert);
  reveal($("open-alerts"), alerts.length);
  reveal($("no-alerts"), !open.length);
  write($("no-alerts"), view ? "No alert is open." : "Nothing has been seen of this endpoint yet.");
  list($("hour"), view ? HOUR : [], (one) => one[0], makeNumber, (node, one) => {
    const known = view.hour[FIELDS[HOUR.indexOf(one)]] !== null;
    write(node.lastChild, known ? one[1](view.hour) : "no data");
  });
  list($("not-answered"), unanswered(page), (line) => line, (line) => el("li", {}, line));
  reveal($("not-answered"), $("not-answered").children.length);
  drawHour($("hour-chart"), view?.history ?? []);
  write($("monitor-hint"), `To look every minute: brookside-mlops monitor --endpoint ${endpoint} --watch`);
  showAge();
}

function showAge() {
  const stale = !looked || Date.now() / 1000 - looked > STALE;
  write($("monitor-about"), looked ? `last hour, as seen at ${moment(looked)}` : "no monitor has looked yet");
  $("monitor").dataset.stale = String(stale);
  reveal($("monitor-hint"), stale);
}
