"use strict";
// The pictures of the page. All of it is drawn from the JSON beside it; what is marked is a list of trials.
const D = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"];
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const INK = dark ? "#e5e7eb" : "#1f2430", GRID = dark ? "#374151" : "#e5e7eb", MARK = "#d62728";
const $ = (id) => document.getElementById(id);
const rows = (columns) => (Object.values(columns)[0] || []).map((_, i) => Object.fromEntries(Object.entries(columns).map(([k, v]) => [k, v[i]])));
const groups = rows(D.groups), points = rows(D.points), trials = rows(D.trials);
const several = D.studies.length > 1;
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const number = (value, digits = 2) => (value === null || value === undefined ? "" : value.toFixed(digits));
const whole = (value) => Math.round(value).toLocaleString("en-US");
const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const layout = (x, y, more = {}) => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: INK, size: 13 },
  margin: { l: 55, r: 12, t: 10, b: 48 }, hovermode: "closest", legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
  xaxis: { title: { text: x }, gridcolor: GRID, zeroline: false, ...more.xaxis },
  yaxis: { title: { text: y }, gridcolor: GRID, zeroline: false, ...more.yaxis },
});
let marked = new Set(), chosen = null;

// Colour by study where there are several, else by method.
const kind = (row) => (several ? D.studies[row.study].name : row.p_method);
const kinds = [...new Set(groups.map(kind))];
const colour = (row) => COLOURS[Math.max(0, kinds.indexOf(kind(row))) % COLOURS.length];
const trialOf = new Map(trials.map((t) => [t.study + t.id, t]));

function hover(g) {
  const interval = g.low === null ? "" : ` [${number(g.low)}, ${number(g.high)}]`;
  return `${several ? escape(D.studies[g.study].name) + "<br>" : ""}${escape(g.label)}<br>${g.bits}, ${whole(g.size)} bits<br>` +
    `validation ${number(g.val)} %${interval}, n = ${g.n}<br>test ${number(g.test)} %`;
}

function isMarked(row) {
  return row.trials ? row.trials.some((id) => marked.has(row.study + id)) : marked.has(row.study + (row.trial || row.id));
}

// Bars of all configurations would hide each other: those of the front and of what is marked show how sure they are.
const hasBar = (g) => g.high !== null && (g.front || isMarked(g));

function drawFront() {
  const traces = [{
    type: "scatter", mode: "markers", name: "single seeds", x: points.map((p) => p.size), y: points.map((p) => p.val),
    marker: { size: 6, color: points.map((p) => colour(trialOf.has(p.study + p.trial) ? { ...p, p_method: trialOf.get(p.study + p.trial).p_method } : p)), opacity: 0.25 },
    customdata: points.map((p) => [p.study + p.trial]), hoverinfo: "skip",
  }];
  for (const name of kinds) {
    const own = groups.filter((g) => kind(g) === name);
    traces.push({
      type: "scatter", mode: "markers", name: escape(name), x: own.map((g) => g.size), y: own.map((g) => g.val),
      customdata: own.map((g) => g.trials.map((id) => g.study + id)), text: own.map(hover), hovertemplate: "%{text}<extra></extra>",
      error_y: { type: "data", symmetric: false, array: own.map((g) => (hasBar(g) ? g.high - g.val : 0)), arrayminus: own.map((g) => (hasBar(g) ? g.val - g.low : 0)),
        thickness: 1.2, width: 0, color: COLOURS[kinds.indexOf(name) % COLOURS.length] },
      marker: { size: own.map((g) => (isMarked(g) ? 16 : 10)), color: COLOURS[kinds.indexOf(name) % COLOURS.length],
        line: { width: own.map((g) => (isMarked(g) ? 3 : 0)), color: MARK } },
    });
  }
  D.studies.forEach((study, n) => {
    const front = groups.filter((g) => g.study === n && g.front).sort((a, b) => a.size - b.size);
    if (!front.length) return;
    const right = Math.max(...groups.map((g) => g.size)) * 1.1;
    traces.push({ type: "scatter", mode: "lines+text", name: several ? `front of ${escape(study.name)}` : "front", hoverinfo: "skip",
      x: [...front.map((g) => g.size), right], y: [...front.map((g) => g.val), front[front.length - 1].val],
      text: [...front.map((g) => g.bits), ""], textposition: "top right", line: { shape: "hv", color: several ? COLOURS[n % COLOURS.length] : INK, width: 1.5 } });
    if (study.teacher) traces.push({ type: "scatter", mode: "lines", name: several ? `teacher of ${escape(study.name)}` : "teacher", hoverinfo: "name+y",
      x: [Math.min(...groups.map((g) => g.size)), right], y: [study.teacher, study.teacher], line: { dash: "dot", color: several ? COLOURS[n % COLOURS.length] : "#6b7280" } });
  });
  const best = Math.max(...groups.map((g) => g.val), 0);
  const spread = Math.max(6 * median(groups.filter((g) => g.front).map((g) => best - g.val)), 5);
  const lowest = Math.max(Math.min(...groups.map((g) => g.val)), best - spread);
  const range = groups.length ? { range: [lowest - 0.08 * spread, Math.max(best, ...D.studies.map((s) => s.teacher || 0)) + 0.1 * spread] } : {};
  Plotly.react("front", traces, layout("total bits of the model as stored", "validation accuracy (%)", { xaxis: { type: "log" }, yaxis: range }), config);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(sorted.length / 2)] : 0;
}

function axis(name, values) {
  // Numbers keep their distances; text gets a rung each; what is absent gets a rung of its own below.
  const present = values.filter((v) => v !== null && v !== undefined && v !== "");
  const isNumeric = present.length > 0 && present.every((v) => typeof v === "number");
  const labels = [...new Set(present)].sort((a, b) => (isNumeric ? a - b : String(a).localeCompare(String(b))));
  const place = (v) => (isNumeric ? v : labels.indexOf(v));
  const low = labels.length ? Math.min(...labels.map(place)) : 0, high = labels.length ? Math.max(...labels.map(place)) : 1;
  const absent = low - 0.2 * (high - low || 1);
  const isAbsent = present.length < values.length;
  const ticks = labels.length <= 8 ? labels : [labels[0], labels[Math.floor(labels.length / 2)], labels[labels.length - 1]];
  return {
    label: escape(name), values: values.map((v) => (v === null || v === undefined || v === "" ? absent : place(v))),
    tickvals: [...(isAbsent ? [absent] : []), ...ticks.map(place)], ticktext: [...(isAbsent ? ["inactive"] : []), ...ticks.map((v) => (typeof v === "number" ? String(+v.toPrecision(5)) : escape(v)))],
    range: [isAbsent ? absent : low, high === low ? low + 1 : high],
  };
}

const shown = trials.filter((t) => D.widths.some((w) => t["val_" + w] !== null && t["val_" + w] !== undefined));
function drawParallel() {
  if (!shown.length) return void ($("parallel").textContent = "no finished trial yet");
  const names = [...(several ? ["study"] : []), ...D.parameters, ...(new Set(shown.map((t) => t.seed)).size > 1 ? ["seed"] : [])];
  const get = (t, name) => (name === "study" ? D.studies[t.study].name : name === "seed" ? Number(t.seed) : t["p_" + name]);
  const widths = D.widths.length > 4 ? [D.widths[0], D.widths[1], D.widths[D.widths.length - 1]] : D.widths;
  const dimensions = [...names.map((name) => axis(name, shown.map((t) => get(t, name)))),
    ...widths.map((w) => axis(w === 32 ? "float %" : `${w} bits %`, shown.map((t) => t["val_" + w])))];
  const values = shown.map((t) => (marked.has(t.study + t.id) ? 1 : 0));
  const scale = marked.size ? [[0, dark ? "#4b5563" : "#cbd5e1"], [1, MARK]] : [[0, "#0072B2"], [1, MARK]];
  const trace = { type: "parcoords", dimensions, line: { color: values, cmin: 0, cmax: 1, colorscale: scale }, labelfont: { size: 13 }, tickfont: { size: 11 } };
  Plotly.react("parallel", [trace], { paper_bgcolor: "rgba(0,0,0,0)", font: { color: INK }, margin: { l: 70, r: 50, t: 50, b: 20 } }, config);
}

function brushed() {
  const dimensions = $("parallel").data?.[0]?.dimensions || [];
  const inside = (dimension, i) => {
    const range = dimension.constraintrange;
    if (!range) return true;
    return (Array.isArray(range[0]) ? range : [range]).some(([a, b]) => dimension.values[i] >= a && dimension.values[i] <= b);
  };
  const kept = shown.filter((_, i) => dimensions.every((dimension) => inside(dimension, i)));
  chosen = kept.length === shown.length ? null : new Set(kept.map((t) => t.study + t.id));
  drawTable();
}

function drawSlice() {
  const parameter = $("parameter").value, width = $("width").value;
  const own = groups.filter((g) => g.bits === width && g["p_" + parameter] !== null && g["p_" + parameter] !== undefined);
  const traces = kinds.map((name) => {
    const here = own.filter((g) => kind(g) === name);
    return { type: "scatter", mode: "markers", name: escape(name), x: here.map((g) => g["p_" + parameter]), y: here.map((g) => g.val),
      customdata: here.map((g) => g.trials.map((id) => g.study + id)), text: here.map(hover), hovertemplate: "%{text}<extra></extra>",
      error_y: { type: "data", symmetric: false, array: here.map((g) => (g.high ?? g.val) - g.val), arrayminus: here.map((g) => g.val - (g.low ?? g.val)), thickness: here.length > 60 ? 0 : 1, width: 2 },
      marker: { size: here.map((g) => (isMarked(g) ? 15 : 9)), color: COLOURS[kinds.indexOf(name) % COLOURS.length], line: { width: here.map((g) => (isMarked(g) ? 3 : 0)), color: MARK } } };
  });
  const xs = own.map((g) => g["p_" + parameter]);
  const isText = xs.some((x) => typeof x === "string");
  Plotly.react("slice", traces, layout(parameter, "validation accuracy (%)", { xaxis: isText ? { type: "category" } : { tickvals: [...new Set(xs)].length <= 8 ? [...new Set(xs)] : undefined } }), config);
}

function drawGrowth() {
  const grown = rows(D.growth);
  const traces = D.studies.map((study, n) => {
    const own = grown.filter((row) => row.study === study.name);
    return { type: "scatter", mode: "lines+markers", name: escape(study.name), x: own.map((r) => r.finished_trials), y: own.map((r) => r.hypervolume), line: { shape: "hv", color: COLOURS[n % COLOURS.length] }, marker: { size: 4 } };
  });
  Plotly.react("growth", traces, layout("finished trials", "hypervolume (% of the reference model's)"), config);
}

function drawRungs() {
  const found = rows(D.rungs);
  if (!found.length) return;
  $("rungs-section").hidden = false;
  const traces = [true, false].map((survived) => {
    const own = found.filter((row) => Boolean(row.survived) === survived);
    return { type: "scatter", mode: "markers", name: survived ? "went on" : "stopped", x: own.map((r) => r.rung), y: own.map((r) => r.value), text: own.map((r) => escape(r.trial)), hovertemplate: "%{text}: %{y:.2f}<extra></extra>", marker: { size: 9, symbol: survived ? "circle" : "x", color: survived ? "#0072B2" : "#D55E00" } };
  });
  Plotly.react("rungs", traces, layout("epoch of the rung", "value that was compared"), config);
}

function drawTable() {
  const own = chosen ? trials.filter((t) => chosen.has(t.study + t.id)) : trials;
  const names = [...(several ? [["study", (t) => D.studies[t.study].name]] : []), ["trial", (t) => t.name || t.id], ["status", (t) => t.status], ["epochs", (t) => t.epochs], ["seconds", (t) => number(t.seconds, 1)],
    ...D.widths.map((w) => [w === 32 ? "float %" : `${w} bits %`, (t) => number(t["val_" + w])]), ["reason", (t) => t.reason]];
  $("table").tHead.innerHTML = `<tr>${names.map(([name]) => `<th>${escape(name)}</th>`).join("")}</tr>`;
  $("table").tBodies[0].innerHTML = own.map((t) => `<tr tabindex="0" data-key="${escape(t.study + t.id)}"${marked.has(t.study + t.id) ? ' class="marked"' : ""}>${names.map(([, get]) => `<td>${escape(get(t) ?? "")}</td>`).join("")}</tr>`).join("");
  $("count").textContent = `${own.length} of ${trials.length} trials`;
}

function mark(keys, isFromTable = false) {
  marked = new Set(keys);
  drawFront(); drawParallel(); drawSlice(); drawTable();
  const row = document.querySelector("tr.marked");
  if (row && !isFromTable) row.parentElement.parentElement.parentElement.scrollTop = row.offsetTop - 60;
}

function sign(value) { return (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(2); }
function card(title, g, lines, command) {
  return `<div class="card" data-label="${escape(g.label)}" data-bits="${escape(g.bits)}"><h3>${escape(title)}</h3><div class="figure">${number(g.val)} % · ${g.bits}</div><div>${escape(g.short)}</div><div>${whole(g.size)} bits, ${whole(g.bytes)} bytes; test ${number(g.test)} %; n = ${g.n}</div>${lines.map((line) => `<div class="hint">${escape(line)}</div>`).join("")}${command ? `<code>${escape(command)}</code>` : ""}</div>`;
}

function pick() {
  const study = Number($("study").value || 0), answers = D.studies[study].answers;
  if (!answers.length) return void ($("picked").textContent = "no finished point yet");
  const found = answers[Math.min(Number($("budget").value), answers.length - 1)];
  const own = groups.filter((g) => g.study === study);
  $("size").textContent = `${whole(found.bits)} bits (${whole(found.bits / 8)} bytes)`;
  const best = own[found.best], lines = [];
  if (found.interval) lines.push(`95 % interval ${number(found.interval[1])} to ${number(found.interval[2])} %`);
  if (found.runner_up) {
    const runner = own[found.runner_up.group], d = found.runner_up.difference;
    lines.push(`runner-up: ${runner.bits} ${runner.short}, ${number(runner.val)} %` + (d ? ` (${sign(d[0])} [${sign(d[1])}, ${sign(d[2])}])` : ""));
  }
  lines.push(`${found.alike} of ${found.compared} others cannot be told from it`);
  let cards = card("Most accurate", best, lines, found.command);
  if (found.recommended !== null && found.recommended !== found.best) {
    const smaller = own[found.recommended], d = (found.listed.find((each) => each.group === found.recommended) || {}).difference;
    const why = [`smaller by ${Math.round(100 * (1 - smaller.size / best.size))} %` + (d ? `; ${sign(d[0])} points [${sign(d[1])}, ${sign(d[2])}]: no difference can be told` : "")];
    cards += card("Recommended: the smallest that cannot be told from it", smaller, why, found.recommended_command);
  }
  $("picked").innerHTML = cards;
}

function setUp() {
  $("picker").hidden = !groups.length;
  $("study-choice").hidden = !several;
  $("study").innerHTML = D.studies.map((study, n) => `<option value="${n}">${escape(study.name)}</option>`).join("");
  const limit = () => { const n = D.studies[Number($("study").value || 0)].answers.length; $("budget").max = Math.max(0, n - 1); $("budget").value = n - 1; pick(); };
  $("study").onchange = limit;
  $("budget").oninput = pick;
  const varying = D.parameters.length ? D.parameters : ["method"];
  $("parameter").innerHTML = varying.map((name) => `<option>${escape(name)}</option>`).join("");
  $("width").innerHTML = [...new Set(groups.map((g) => g.bits))].map((bits) => `<option>${escape(bits)}</option>`).join("");
  $("parameter").onchange = $("width").onchange = drawSlice;
  $("clear").onclick = () => mark([]);
  limit(); drawFront(); drawParallel(); drawSlice(); drawGrowth(); drawRungs(); drawTable();
  for (const id of ["front", "slice"]) $(id).on("plotly_click", (event) => { const keys = event.points[0].customdata; if (keys) mark([].concat(keys)); });
  if ($("parallel").on) $("parallel").on("plotly_restyle", brushed);
  const choose = (event) => { const row = event.target.closest("tr"); if (row) mark([row.dataset.key], true); };
  $("table").tBodies[0].onclick = choose;
  $("table").tBodies[0].onkeydown = (event) => { if (event.key === "Enter") choose(event); };
}
setUp();
