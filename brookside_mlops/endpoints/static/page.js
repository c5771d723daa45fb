// The page of an endpoint: it draws what /events sends and sends nothing back. All text goes in as text, never as HTML.
"use strict";

const SILENCE = 12_000; // ms without a sign of life (the server sends one every 5 s) after which the server counts as gone
const AGAIN = 5_000; // ms until the next try where the server refused
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

// Small tools

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "circle"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function reveal(node, shown) {
  node.hidden = !shown;
}

// Make the children of `parent` those of `items`, keeping the nodes that are there already.
function list(parent, items, key, make, fill = () => {}) {
  const known = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, place) => {
    const name = String(key(item));
    const node = known.get(name) ?? make(item);
    node.dataset.key = name;
    known.delete(name);
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    fill(node, item);
  });
  for (const node of known.values()) node.remove();
}

function number(value, digits) {
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const spread = (value) => number(value, value >= 100 ? 0 : value >= 10 ? 1 : 2);
const clock = (date) => `${date.toISOString().slice(11, 19)} UTC`;

function duration(seconds) {
  if (seconds >= 120) return `${number(seconds / 60, seconds % 60 ? 1 : 0)} min`;
  return `${number(seconds, seconds < 10 && seconds % 1 ? 1 : 0)} s`;
}

// Traffic

function colour(name, place) {
  return { blue: 0, green: 1 }[name] ?? 2 + (place % 2);
}

const NUMBERS = [
  ["req/s", (one) => number(one.rate, one.rate >= 100 ? 0 : 1)],
  ["errors", (one) => (one.rate ? `${number(100 * one.error_rate, 1)} %` : "–")],
  ["P50 ms", (one) => (one.rate ? spread(one.p50_ms) : "–")],
  ["P95 ms", (one) => (one.rate ? spread(one.p95_ms) : "–")],
  ["P99 ms", (one) => (one.rate ? spread(one.p99_ms) : "–")],
  ["restarts", (one) => String(restarts(one))],
];
const restarts = (one) => Object.values(one.restarts).reduce((sum, count) => sum + count, 0);

function makeDeployment() {
  const pairs = NUMBERS.map(([name]) => el("div", {}, el("dt", {}, name), el("dd")));
  const spark = el("svg", { class: "spark", role: "img", viewBox: "0 0 59 34", preserveAspectRatio: "none" });
  for (const name of ["base", "line"]) spark.append(el("path", { class: name, "vector-effect": "non-scaling-stroke" }));
  const who = ["swatch", "name", "about", "share"].map((name) => el("span", { class: name }));
  return el("li", {}, el("div", { class: "who" }, ...who), el("dl", { class: "numbers" }, ...pairs), spark,
    el("p", { class: "restarts" }));
}

function fillDeployment(node, one) {
  const part = (name) => node.querySelector(name);
  node.dataset.colour = one.colour;
  write(part(".name"), one.name);
  const role = { new: "new, ", stable: "stable, " }[one.role] ?? "";
  write(part(".about"), `${role}version ${one.version}, ${one.state}`);
  write(part(".share"), `${one.weight} %`);
  node.querySelectorAll("dd").forEach((place, at) => write(place, NUMBERS[at][1](one)));
  node.querySelectorAll("dd")[1].classList.toggle("trouble", one.error_rate >= 0.01);
  const most = Math.max(...one.history, 1);
  const path = one.history.map((count, at) => `${at ? "L" : "M"}${at} ${(32 - (30 * count) / most).toFixed(2)}`).join("");
  part(".base").setAttribute("d", "M0 33H59");
  part(".line").setAttribute("d", path);
  const last = one.history.at(-1) ?? 0;
  const said = `Requests to ${one.name} in the last minute: at most ${Math.max(...one.history, 0)} a second, now ${last}.`;
  part(".spark").setAttribute("aria-label", said);
  const reasons = Object.entries(one.restarts).map(([reason, count]) => `${count} × ${reason}`);
  write(part(".restarts"), reasons.length ? `Worker restarts: ${reasons.join(", ")}` : "");
  reveal(part(".restarts"), reasons.length > 0);
}

function showTraffic(page) {
  const all = page.deployments.map((one, place) => ({ ...one, colour: colour(one.name, place) }));
  const carrying = all.filter((one) => one.weight);
  const words = carrying.map((one) => `${one.name} ${one.weight} %`).join(", ");
  $("split").setAttribute("aria-label", words ? `Split of the traffic: ${words}` : "No deployment takes traffic");
  list($("split"), carrying, (one) => one.name, () => el("div"), (node, one) => {
    node.dataset.colour = one.colour;
    node.style.flexBasis = `${one.weight}%`;
  });
  list($("deployments"), all, (one) => one.name, makeDeployment, fillDeployment);
  const copies = page.mirror;
  reveal($("mirror"), copies);
  if (!copies) return;
  const share = `${number((100 * copies.agreed) / copies.rows, 1)} % of ${number(copies.rows, 0)} rows`;
  const agreed = copies.rows ? `${share} agree with the live answers` : "none has been answered yet";
  const failed = copies.failed ? `, ${number(copies.failed, 0)} of ${number(copies.copies, 0)} copies failed` : "";
  write($("mirror"), `Mirror: ${copies.deployment} gets copies of ${copies.share} % of the live requests; ${agreed}${failed}.`);
}

// Rollout

const MARKS = { done: "✓", now: "", next: "", stopped: "✕" };
const SAID = { done: "done", now: "in hand", next: "to come", stopped: "stopped here" };
let deadline = 0;
let bake = 0;

function makeStep(step) {
  const mark = el("span", { class: "mark", "aria-hidden": "true" });
  return el("li", {}, mark, el("span", {}, step.name), el("span", { class: "unseen" }));
}

function fillStep(node, step) {
  node.dataset.state = step.state;
  write(node.firstChild, MARKS[step.state]);
  write(node.lastChild, `, ${SAID[step.state]}`);
  if (step.state === "now") node.setAttribute("aria-current", "step");
  else node.removeAttribute("aria-current");
}

function showRollout(rollout) {
  reveal($("rollout"), rollout);
  if (!rollout) return;
  $("rollout").dataset.tone = rollout.tone;
  const kind = rollout.kind === "rollback" ? "Rollback" : "Rollout";
  const beside = rollout.old ? `, beside ${rollout.old}` : "";
  const about = ` ${rollout.number}: version ${rollout.version} as ${rollout.new}${beside}, ${rollout.strategy}`;
  $("rollout-title").replaceChildren(kind, el("span", {}, about));
  write($("headline"), rollout.headline);
  write($("said"), rollout.headline);
  write($("reason"), rollout.reason);
  list($("steps"), rollout.steps, (step) => step.name, makeStep, fillStep);
  const warnings = rollout.warnings.map((text, place) => ({ text: `Predictions differ: ${text}`, place }));
  list($("warnings"), warnings, (one) => one.place, () => el("li"), (node, one) => write(node, one.text));
  reveal($("warnings"), rollout.warnings.length);
  list($("stops-list"), rollout.stops, (text) => text, (text) => el("li", {}, text));
  reveal($("stops"), rollout.stops.length);
  write($("hint-text"), rollout.hint);
  reveal($("hint"), rollout.hint);
  const over = ["finished", "restored"].includes(rollout.state);
  const when = rollout.changed ? `${rollout.changed.slice(0, 10)} ${rollout.changed.slice(11, 19)} UTC` : "";
  write($("holder"), rollout.holder ? `Driven by ${rollout.holder}` : over ? `Ended ${when}` : "Nobody drives it now.");
  bake = rollout.bake;
  write($("left-unit"), rollout.extended ? "until a person is asked" : `left of ${duration(bake)}`);
  deadline = performance.now() + 1000 * rollout.left;
  countDown();
}

function countDown() {
  const left = bake ? Math.max(0, (deadline - performance.now()) / 1000) : 0;
  const running = left > 0 && document.body.dataset.link !== "gone";
  reveal($("countdown"), running);
  reveal($("bake"), bake);
  if (!bake) return;
  $("bake").max = bake;
  $("bake").value = bake - left;
  const whole = Math.ceil(left);
  write($("left"), whole < 120 ? `${whole} s` : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`);
}

// Analysis

let drawn = null;

// Draw axes into an SVG and return an inner SVG, cut off at its edges, with functions from values to places in it.
function axes(svg, across, up, ticks, name) {
  const [width, height] = [svg.clientWidth, svg.clientHeight];
  const [left, right, top, bottom] = [52, 60, 30, 24];
  const [wide, high] = [Math.max(width - left - right, 1), height - top - bottom];
  const x = (value) => (wide * value) / across;
  const y = (value) => high * (1 - (value - up[0]) / (up[1] - up[0]));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(el("text", { x: 0, y: 11 }, name));
  for (const [value, text] of ticks) {
    const at = top + y(value);
    svg.append(el("line", { class: text === "0" || text === "1" ? "zero" : "grid", x1: left, x2: width - right, y1: at, y2: at }));
    svg.append(el("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, text));
  }
  svg.append(el("text", { x: left, y: height - 4 }, "0"));
  svg.append(el("text", { x: width - right, y: height - 4, "text-anchor": "end" }, `${duration(Math.round(across))} of bake`));
  const inner = el("svg", { x: left, y: top, width: wide, height: high });
  svg.append(inner);
  const label = (value, text, nudge = 0) => {
    const at = Math.min(Math.max(top + y(value), top + 4), top + high - 4);
    svg.append(el("circle", { class: "end", cx: left + wide, cy: at, r: 4.5 }));
    svg.append(el("text", { class: "value", x: left + wide + 10, y: at + 4 + nudge }, text));
  };
  return { inner, x, y, wide, label };
}

function path(points, x, y, value) {
  return points.map((point, at) => `${at ? "L" : "M"}${x(point.at).toFixed(1)} ${y(value(point)).toFixed(1)}`).join("");
}

const signed = (share, digits) => `${share > 0 ? "+" : share < 0 ? "−" : ""}${number(Math.abs(100 * share), digits)}`;

function drawDifference(svg, analysis, across) {
  const { points, margin } = analysis;
  const last = points.at(-1);
  const reach = 1.15 * Math.max(margin, Math.abs(last.low), Math.abs(last.high));
  const top = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].find((step) => step >= reach) ?? 1;
  const ticks = [1, 0.5, 0, -0.5, -1].map((part) => [part * top, signed(part * top, top < 0.1 && part ? 1 : 0)]);
  const { inner, x, y, wide, label } = axes(svg, across, [-top, top], ticks, "percentage points");
  const upper = path(points, x, y, (point) => point.high);
  const lower = path([...points].reverse(), x, y, (point) => point.low);
  inner.append(el("path", { class: "area", d: `${upper}${lower.replace("M", "L")}Z` }));
  inner.append(el("path", { class: "curve", d: upper }), el("path", { class: "curve", d: lower }));
  inner.append(el("line", { class: "limit", x1: 0, x2: wide, y1: y(margin), y2: y(margin) }));
  const nudge = Math.max(0, 16 - (y(last.low) - y(last.high))) / 2; // so that the two labels do not touch
  label(last.high, signed(last.high, 2), -nudge);
  label(last.low, signed(last.low, 2), nudge);
}

function drawEvidence(svg, analysis, across) {
  const { points, needed } = analysis;
  const log = (value) => Math.log10(Math.min(Math.max(value, 1e-9), 1e9));
  const all = points.map((point) => log(point.e_value));
  const least = Math.max(Math.min(...all, -1), -4);
  const most = Math.max(...all, log(needed) + 0.3);
  const every = most - least < 5 ? 1 : 2;
  const low = every * Math.floor(least / every);
  const high = every * Math.ceil(most / every);
  const powers = Array.from({ length: high - low + 1 }, (_, at) => low + at).filter((power) => power % every === 0);
  const ticks = powers.map((power) => [power, (10 ** power).toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 4 })]);
  const { inner, x, y, wide, label } = axes(svg, across, [low, high], ticks, "e-value");
  inner.append(el("line", { class: "limit", x1: 0, x2: wide, y1: y(log(needed)), y2: y(log(needed)) }));
  inner.append(el("path", { class: "curve", d: path(points, x, y, (point) => log(point.e_value)) }));
  const now = analysis.e_errors;
  label(log(now), now >= 1e4 || now < 0.01 ? now.toExponential(0) : spread(now));
}

function showAnalysis(analysis) {
  reveal($("analysis"), analysis);
  drawn = analysis;
  if (!analysis) return;
  write($("difference"), `${analysis.difference}.`);
  write($("evidence"), `${analysis.evidence}.`);
  write($("counts"), analysis.counts);
  write($("confidence"), `bounds that hold at all looks together, ${number(100 * (1 - analysis.alpha), 0)} %`);
  redraw();
}

function redraw() {
  if (!drawn) return;
  const across = Math.max(drawn.points.at(-1).at, 0.01);
  drawDifference($("difference-chart"), drawn, across);
  drawEvidence($("evidence-chart"), drawn, across);
}

// Audit trail, and all together

function makeEvent(event) {
  const at = el("time", { datetime: event.time, title: event.time }, event.time.slice(11, 19));
  const parts = ["event", "text", "actor"].map((name) => el("span", { class: name }, event[name]));
  return el("li", {}, at, ...parts);
}

let page = null;

function show(next) {
  page = next;
  const rollout = page.rollout;
  document.title = rollout ? `${page.endpoint}: ${rollout.headline}` : page.endpoint;
  write($("endpoint"), page.endpoint);
  reveal(document.querySelector("main"), true);
  showTraffic(page);
  showRollout(rollout);
  showAnalysis(page.analysis);
  showMonitor(page);
  list($("events"), page.events, (event) => event.number, makeEvent);
  reveal($("no-events"), !page.events.length);
  showAlerts();
}

function showAlerts(link = []) {
  const lost = page?.lost ? [`The log of requests lost ${number(page.lost, 0)} rows: the disk takes no more.`] : [];
  const all = [...link, ...(page?.faults ?? []), ...lost];
  list($("alerts"), all, (text) => text, (text) => el("p", { class: "alert" }, text));
}

// The line to the server

let source = null;
let heard = Date.now();
let tried = Date.now();

function alive() {
  heard = tried = Date.now();
  document.body.dataset.link = $("link").dataset.state = "live";
  write($("link-text"), `Live, ${clock(new Date(heard))}`);
  showAlerts();
}

function gone(why = "The page tries again by itself.") {
  document.body.dataset.link = $("link").dataset.state = "gone";
  const since = clock(new Date(heard));
  write($("link-text"), `Disconnected since ${since}`);
  showAlerts([`No connection to the server since ${since}; what is shown is from then. ${why}`]);
  countDown();
}

function connect() {
  source?.close();
  tried = Date.now();
  source = new EventSource("/events");
  source.addEventListener("page", (event) => { show(JSON.parse(event.data)); alive(); });
  source.addEventListener("alive", alive);
  source.addEventListener("error", refused);
}

// A line that broke is taken up again by the browser. Where the server refuses, the session is over: a new link begins another one.
async function refused() {
  gone();
  if (source.readyState !== EventSource.CLOSED) return;
  const answer = await fetch("/", { cache: "no-store" }).catch(() => null);
  if (answer?.status === 401) gone(`The session is over. Run: brookside-mlops endpoint open ${page?.endpoint ?? "NAME"}`);
  setTimeout(connect, AGAIN);
}

setInterval(() => {
  countDown();
  showAge();
  if (Date.now() - tried > SILENCE) { gone(); connect(); }
}, 250);
new ResizeObserver(redraw).observe($("analysis"));
connect();
