// The page: looks every two seconds, and shows what it has seen. Everything from the server is set as text, never as HTML.

const EVERY = 2000, KEPT = 300; // milliseconds; looks that the curves show
const $ = (id) => document.getElementById(id);
const state = {key: sessionStorage.getItem("tokenferry-key") || "", before: null, now: null, curves: new Map(), cell: {layer: 0, expert: 0}, pointed: false, paused: false, facts: null};

function element(name, text, attributes = {}, children = []) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

class Refused extends Error {}

async function get(path) {
  const answer = await fetch(path, {headers: state.key ? {Authorization: "Bearer " + state.key} : {}, cache: "no-store", signal: AbortSignal.timeout(10 * EVERY)});
  if (answer.status === 401) throw new Refused();
  if (!answer.ok && path !== "/health") throw new Error(path + " answers " + answer.status);
  return path === "/metrics" ? new Metrics(await answer.text(), performance.now()) : answer.json();
}

// ---- one look after the other

async function look() {
  const health = await get("/health");
  const [metrics, experts] = await Promise.all([get("/metrics"), get("/v1/experts")]);
  if (!state.facts) state.facts = {version: (await get("/version")).version, model: (await get("/v1/models")).data[0]};
  state.before = state.now;
  state.now = {health, metrics, experts};
  ask(false);
  show();
}

async function run() {
  for (;;) {
    if (!state.paused && !document.hidden && $("ask").hidden) {
      try {
        await look();
      } catch (error) {
        if (error instanceof Refused) ask(true);
        else say("no answer: " + error.message, true);
      }
    }
    await new Promise((wake) => setTimeout(wake, EVERY));
  }
}

function ask(needed) {
  $("ask").hidden = !needed;
  $("data").hidden = needed;
  if (!needed) return;
  say("locked", true);
  $("refused").textContent = state.key ? "The server refuses this key." : "";
  state.now = state.before = state.facts = null;
  state.curves.clear();
  $("key").focus();
}

function say(text, bad = false) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

// ---- what it shows

function show() {
  const {health, metrics, experts} = state.now, before = state.before || state.now;
  say(`${state.facts.model.id}: ${health.status}, ${metrics.sum("ranks_up")} of ${health.ranks} ranks`, health.status !== "ok" && health.status !== "draining");
  const per = (name) => rate(metrics, before.metrics, name);
  const milliseconds = (name, share) => {
    const seconds = quantile(metrics, before.metrics, name, share);
    return seconds === null ? null : 1000 * seconds;
  };
  const out = per("generation_tokens_total"), running = metrics.sum("num_requests_running"), waiting = metrics.sum("num_requests_waiting");
  const first = milliseconds("time_to_first_token_seconds", 0.5), next = milliseconds("inter_token_latency_seconds", 0.5);
  const cache = 100 * metrics.sum("kv_cache_usage_perc");
  const queries = metrics.sum("prefix_cache_queries_total");
  pairs("now", [
    ["tokens/s generated", shown(out)], ["tokens/s of prompts", shown(per("prompt_tokens_total"))],
    ["sequences running", shown(running)], ["requests waiting", shown(waiting)],
    ["first token, median", shown(first, " ms")], ["next token, median", shown(next, " ms")],
    ["cache in use", shown(cache, " %")], ["prompt tokens from the cache", shown(queries ? 100 * metrics.sum("prefix_cache_hits_total") / queries : null, " %")],
    ["steps/s", shown(per("steps_total"))], ["preemptions", shown(metrics.sum("num_preemptions_total"))],
  ]);
  curve("tokens/s generated", out);
  curve("sequences running", running);
  curve("requests waiting", waiting);
  curve("first token, median ms", first);
  curve("next token, median ms", next);
  curve("cache in use, %", cache);
  showExperts();
  showRanks(experts, before.experts, health.hosts || []);
  showWaits(experts, before.experts);
  showRequests(metrics);
  const {version, model} = state.facts;
  pairs("facts", [
    ["version", version], ["model", model.id], ["longest sequence", shown(model.max_model_len, " tokens")], ["ranks", shown(experts.num_ranks)],
    ["hosts", [...new Set(health.hosts || [])].join(", ")], ["MoE layers, experts of each", `${experts.num_layers}, ${experts.num_experts}`],
    ["steps since the start", shown(experts.steps)], ["selections dropped, rerouted", `${shown(total(experts.dropped))}, ${shown(total(experts.rerouted))}`],
    ["connections", shown(metrics.sum("http_connections"))], ["fields of requests ignored", shown(metrics.sum("ignored_fields_total"))],
  ]);
}

function pairs(id, rows) {
  $(id).replaceChildren(...rows.map(([name, value]) => element("div", null, {}, [element("dt", name), element("dd", value)])));
}

function curve(name, value) {
  let drawn = state.curves.get(name);
  if (!drawn) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline"), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.append(line);
    const caption = element("figcaption");
    drawn = {values: [], svg, line, caption, figure: element("figure", null, {}, [svg, caption])};
    state.curves.set(name, drawn);
  }
  drawn.values = [...drawn.values, value].slice(-KEPT);
  const known = drawn.values.filter((v) => v !== null), most = Math.max(...known, 0);
  const points = drawn.values.map((v, i) => v === null ? null : `${i},${most > 0 ? 98 - 96 * v / most : 98}`).filter(Boolean);
  drawn.svg.setAttribute("viewBox", `0 0 ${Math.max(30, drawn.values.length - 1)} 100`);
  drawn.line.setAttribute("points", points.join(" "));
  drawn.caption.textContent = `${name}: ${shown(value)}, at most ${shown(known.length ? most : null)}`;
  drawn.svg.setAttribute("aria-label", drawn.caption.textContent);
  const figures = [...state.curves.values()].map((one) => one.figure);
  if ($("curves").children.length !== figures.length) $("curves").replaceChildren(...figures);
}

// ---- experts

// [layer][expert] selections, as the page is asked for them.
function expertRows() {
  const now = state.now.experts.expert_rows;
  return $("span").value === "total" || !state.before ? now : difference(now, state.before.experts.expert_rows);
}

// Dark blue, teal, yellow: in order of lightness, so that it can be read without seeing hues.
function colour(load) {
  const stops = [[40, 32, 92], [33, 145, 140], [253, 231, 37]], at = Math.min(Math.max(load, 0), 2), i = Math.min(Math.floor(at), 1);
  return `rgb(${stops[i].map((from, c) => Math.round(from + (stops[i + 1][c] - from) * (at - i))).join()})`;
}

function showExperts() {
  const rows = expertRows(), canvas = $("heat"), ratio = window.devicePixelRatio || 1;
  const numLayers = rows.length, numExperts = numLayers ? rows[0].length : 0;
  const width = Math.max(4, Math.floor((canvas.parentElement.clientWidth - 6) / Math.max(numExperts, 1))), height = Math.max(10, Math.min(22, Math.floor(480 / Math.max(numLayers, 1))));
  canvas.width = width * numExperts * ratio;
  canvas.height = height * numLayers * ratio;
  canvas.style.width = `${width * numExperts}px`;
  canvas.style.height = `${height * numLayers}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  rows.forEach((row, l) => {
    const average = mean(row);
    row.forEach((n, e) => {
      pen.fillStyle = colour(average > 0 ? n / average : 0);
      pen.fillRect(e * width, l * height, width > 6 ? width - 1 : width, height - 1);
    });
  });
  state.cell.layer = Math.max(0, Math.min(state.cell.layer, numLayers - 1));
  state.cell.expert = Math.max(0, Math.min(state.cell.expert, numExperts - 1));
  if (document.activeElement === canvas && numExperts) {
    pen.strokeStyle = "#fff";
    pen.lineWidth = 2;
    pen.strokeRect(state.cell.expert * width + 1, state.cell.layer * height + 1, width - 2, height - 3);
  }
  Object.assign(state, {cellWidth: width, cellHeight: height});
  $("scale").style.background = `linear-gradient(to right, ${[0, 1, 2].map(colour).join()})`;
  describeCell(rows);
  showLayer(rows);
}

// Says in words what the chosen cell has.
function describeCell(rows) {
  const {layer, expert} = state.cell;
  if (!rows.length || !state.pointed) return;
  const average = mean(rows[layer]), n = rows[layer][expert];
  $("cell").textContent = `MoE layer ${layer}, expert ${expert}: ${shown(n)} selections, ${average > 0 ? shown(n / average) + " times the layer's mean" : "as many as all others"}`;
}

function showLayer(rows) {
  const select = $("layer");
  if (select.options.length !== rows.length) {
    select.replaceChildren(...rows.map((_, l) => element("option", l, {value: l})));
  }
  if (!rows.length || !$("as-table").open) return;
  const row = rows[Number(select.value)], average = mean(row);
  table("experts", `Selections in MoE layer ${select.value}`, ["expert", "selections", "of the mean"],
    row.map((n, e) => [shown(e), shown(n), average > 0 ? shown(n / average) : "–"]));
}

// ---- tables

function table(id, caption, head, rows) {
  const line = (cells, first) => element("tr", null, {}, cells.map((cell, i) => {
    if (cell instanceof Node) return element("td", null, {}, [cell]);
    return element(first || i === 0 ? "th" : "td", cell, first ? {scope: "col"} : i === 0 ? {scope: "row"} : {});
  }));
  $(id).replaceChildren(element("caption", caption), element("thead", null, {}, [line(head, true)]), element("tbody", null, {}, rows.map((row) => line(row, false))));
}

function showRanks(experts, before, hosts) {
  const rows = difference(experts.rank_rows, before === experts ? [] : before.rank_rows), ranks = Array.from({length: experts.num_ranks}, (_, r) => r);
  const load = ranks.map((r) => total(rows.map((row) => row[r]))), all = total(load), average = mean(load);
  table("ranks", "Selections of all layers that each rank has computed in the last seconds", ["rank", "host", "selections", "share", "of the mean"], ranks.map((r) => {
    const share = all > 0 ? load[r] / all : 0;
    const bar = element("meter", null, {min: 0, max: 1, value: share, "aria-label": `share of rank ${r}: ${shown(100 * share, " %")}`});
    return [shown(r), hosts[r] || "", shown(load[r]), bar, average > 0 ? shown(load[r] / average) : "–"];
  }));
}

function showWaits(experts, before) {
  const waits = difference(experts.wait_seconds, before === experts ? [] : before.wait_seconds);
  table("waits", "Milliseconds that the rank of a row has waited for that of a column in the last seconds", ["rank", ...waits.map((_, r) => "for " + r)],
    waits.map((row, r) => [shown(r), ...row.map((seconds, other) => (other === r ? "–" : shown(Math.round(1000 * seconds))))]));
}

function showRequests(metrics) {
  const before = (state.before || state.now).metrics;
  table("requests", "Requests that have ended", ["outcome", "all", "in the last seconds"], ["success", "error", "abort"].map((outcome) => {
    const count = (look) => look.sum("requests_total", {outcome});
    return [outcome, shown(count(metrics)), shown(count(metrics) - count(before))];
  }));
}

// ---- what people do

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = $("key").value.trim();
  sessionStorage.setItem("tokenferry-key", state.key);
  $("key").value = "";
  look().catch((error) => (error instanceof Refused ? ask(true) : say("no answer: " + error.message, true)));
});
$("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", state.paused);
  $("pause").textContent = state.paused ? "Go on" : "Pause";
});
const redraw = () => state.now && showExperts();
function point(layer, expert) {
  state.cell = {layer, expert};
  state.pointed = true;
  redraw();
}
for (const [id, kind] of [["span", "change"], ["layer", "change"], ["as-table", "toggle"], ["heat", "focus"], ["heat", "blur"]]) $(id).addEventListener(kind, redraw);
window.addEventListener("resize", redraw);
$("heat").addEventListener("mousemove", (event) => {
  if (!state.now) return;
  point(Math.floor(event.offsetY / state.cellHeight), Math.floor(event.offsetX / state.cellWidth));
});
$("heat").addEventListener("keydown", (event) => {
  const [layers, experts] = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -1e9], End: [0, 1e9]}[event.key] || [0, 0];
  if (!state.now || (!layers && !experts)) return;
  event.preventDefault();
  point(state.cell.layer + layers, state.cell.expert + experts);
  $("announced").textContent = $("cell").textContent;
});

run();
