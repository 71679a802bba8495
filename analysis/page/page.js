"use strict";
// The pictures of the page, drawn from the JSON beside them. What is marked is a set of numbers of trials.
const D = JSON.parse(document.getElementById("data").textContent);
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A900"]; // Okabe and Ito
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const INK = dark ? "#e5e7eb" : "#1f2430", GRID = dark ? "#374151" : "#e5e7eb", PALE = dark ? "#4b5563" : "#cbd5e1", MARK = "#d62728", PICKED = "#009E73";
const $ = (id) => document.getElementById(id);
const hasWebGL = Boolean(document.createElement("canvas").getContext("webgl"));
const isSmall = innerWidth < 500;

const unpack = (column) => (Array.isArray(column) ? column : column.codes.map((code) => column.levels[code]));
function table(columns) {
  const entries = Object.entries(columns).map(([name, column]) => [name, unpack(column)]);
  return (entries[0]?.[1] || []).map((_, i) => Object.fromEntries(entries.map(([name, values]) => [name, values[i]])));
}
const trials = table(D.trials), configurations = table(D.configurations), cells = table(D.measured);
const O = D.objective; // what decides: title, unit, digits, whether higher is better, resolution
const W = D.widths.length, several = D.studies.length > 1;
trials.forEach((trial) => { trial.val = Array(W).fill(null); });
cells.forEach((cell, i) => {
  Object.assign(cell, configurations[Math.floor(i / W)], { width: i % W });
  if (cell.size) cell.trials.forEach((n, k) => { trials[n].val[cell.width] = cell.seeds ? cell.seeds[k] : cell.val; });
});
table(D.shared).forEach((own) => { trials[own.trial].val[own.width] = own.val; });
const measured = cells.filter((cell) => cell.size), large = measured.length > 1500 && hasWebGL;

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const number = (value, digits = O.digits) => (value === null || value === undefined ? "" : value.toFixed(digits));
const whole = (value) => Math.round(value).toLocaleString("en-US");
const sign = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(O.digits);
const difference = (d) => (d ? `${sign(d[0])} [${sign(d[1])}, ${sign(d[2])}]` : "unknown");
const studyOf = (row) => D.studies[row.study].name;

// Colour by study where there are several, else by method.
const kindOf = (trial) => (several ? studyOf(trial) : trial.p_method || "");
const kind = (cell) => kindOf(trials[cell.trials[0]]);
const kinds = [...new Set(trials.map(kindOf))];
const colour = (name) => PALETTE[Math.max(0, kinds.indexOf(name)) % PALETTE.length];
let marked = new Set(), chosen = null, picked = null;
const isMarked = (row) => marked.size > 0 && row.trials.some((n) => marked.has(n));

const config = { responsive: true, displaylogo: false, displayModeBar: isSmall ? false : "hover", modeBarButtonsToRemove: ["lasso2d", "select2d"] };
const layout = (x, y, more = {}) => ({
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: INK, size: isSmall ? 11 : 13, family: "system-ui, sans-serif" },
  margin: { l: isSmall ? 46 : 58, r: 14, t: 24, b: 48 }, hovermode: "closest", dragmode: isSmall ? false : "zoom",
  hoverlabel: { align: "left", bgcolor: dark ? "#1f2430" : "#fff", font: { color: INK, size: 12 } },
  legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, ...more,
  xaxis: { title: { text: x }, gridcolor: GRID, zeroline: false, ...more.xaxis },
  yaxis: { title: { text: y }, gridcolor: GRID, zeroline: false, automargin: true, ...more.yaxis },
});

const hasInterval = (cell) => cell.low !== null && cell.low !== undefined;
function hover(cell) {
  const interval = hasInterval(cell) ? ` [${number(cell.low)}, ${number(cell.high)}]` : "";
  const lines = [D.widths[cell.width], ...cell.label.split(" "), `${whole(cell.size)} bits, ${whole(cell.bytes)} bytes`,
    `validation ${number(cell.val)} ${O.unit}${interval}`, `test ${number(cell.test)} ${O.unit}, n = ${cell.trials.length}`];
  return (several ? [studyOf(cell), ...lines] : lines).map(escape).join("<br>");
}

// Bars of all configurations would hide each other: those of the front and of what is marked show how sure they are.
function bars(shown, hasBar, name) {
  const end = (cell, value) => (hasInterval(cell) && hasBar(cell) ? value : 0);
  return { type: "data", symmetric: false, array: shown.map((c) => end(c, c.high - c.val)), arrayminus: shown.map((c) => end(c, c.val - c.low)), thickness: 1.2, width: 0, color: colour(name) };
}

function markers(shown, name, x, more = {}) {
  return {
    type: large ? "scattergl" : "scatter", mode: "markers", name: escape(name), legendgroup: name, x: shown.map(x), y: shown.map((c) => c.val),
    customdata: shown.map((c) => c.trials), text: shown.map(hover), hovertemplate: "%{text}<extra></extra>",
    marker: { size: large ? 6 : 9, color: colour(name), opacity: large ? 0.6 : 0.9, line: { width: 0 } }, ...more,
  };
}

function highlighted(shown, x) {
  const own = shown.filter(isMarked);
  return { type: "scatter", mode: "markers", name: "marked", showlegend: own.length > 0, x: own.map(x), y: own.map((c) => c.val), customdata: own.map((c) => c.trials), text: own.map(hover), hovertemplate: "%{text}<extra></extra>",
    error_y: { ...bars(own, () => true, ""), color: MARK }, marker: { size: 15, color: "rgba(0,0,0,0)", line: { width: 3, color: MARK } } };
}

function seedDots(shown, x) {
  const dots = shown.flatMap((c) => (c.seeds || []).map((val, k) => ({ x: x(c), val, color: colour(kind(c)), trial: c.trials[k] })));
  return { type: "scatter", mode: "markers", name: "single seeds", x: dots.map((d) => d.x), y: dots.map((d) => d.val), hoverinfo: "skip", showlegend: dots.length > 0,
    customdata: dots.map((d) => [d.trial]), marker: { size: 5, color: dots.map((d) => d.color), opacity: 0.3 } };
}

const sizes = measured.map((c) => c.size), left = Math.min(...sizes) / 1.15, right = Math.max(...sizes) * 1.15;
function frontLines(study, n) {
  const own = measured.filter((c) => c.study === n && c.front && !c.lacks).sort((a, b) => a.size - b.size), ink = several ? colour(study.name) : INK;
  if (!own.length) return [];
  const last = own[own.length - 1], steps = own.filter((c, i) => i === 0 || D.widths[c.width] !== D.widths[own[i - 1].width]);
  return [
    { type: "scatter", mode: "lines", name: several ? `front of ${escape(study.name)}` : "front", legendgroup: study.name, showlegend: !several, hoverinfo: "skip", x: [...own.map((c) => c.size), right], y: [...own.map((c) => c.val), last.val], line: { shape: "hv", color: ink, width: 1.5 } },
    { type: "scatter", mode: "text", showlegend: false, hoverinfo: "skip", x: steps.map((c) => c.size), y: steps.map((c) => c.val), text: steps.map((c) => `\u2003${escape(D.widths[c.width])}`), textposition: "bottom right", textfont: { color: ink } },
    ...(study.teacher ? [{ type: "scatter", mode: "lines", name: several ? `teacher of ${escape(study.name)}` : `teacher, ${number(study.teacher)} %`, legendgroup: study.name, showlegend: !several, hoverinfo: "skip", x: [left, right], y: [study.teacher, study.teacher], line: { dash: "dot", width: 1.5, color: several ? ink : "#8b8b8b" } }] : []),
  ];
}

// The part of the values where the front and its bars are, better ones up; what is far below can be reached by zooming out.
function range() {
  const up = O.higher ? 1 : -1, hasEnds = (c) => c.front && hasInterval(c);
  const worst = (c) => (hasEnds(c) ? (O.higher ? c.low : -c.high) : up * c.val), best = (c) => (hasEnds(c) ? (O.higher ? c.high : -c.low) : up * c.val);
  const front = measured.filter((c) => c.front), all = measured.flatMap((c) => [up * c.val, worst(c)]);
  const high = Math.max(...all, ...front.map(best), ...D.studies.filter((s) => s.teacher).map((s) => up * s.teacher));
  const low = Math.max(Math.min(...all), Math.min(...front.map(worst), Math.max(...all) - 0.6 * O.resolution));
  const room = high - low + 0.02 * O.resolution;
  return [up * (low - 0.06 * room), up * (high + 0.04 * room)];
}

function drawFront() {
  const x = (c) => c.size, traces = [seedDots(measured, x)];
  for (const name of kinds) {
    const own = measured.filter((c) => kind(c) === name && !c.lacks);
    if (own.length) traces.push(markers(own, name, x, { error_y: bars(own, (c) => c.front && !large, name) }));
  }
  const lacking = measured.filter((c) => c.lacks);
  if (lacking.length) traces.push({ ...markers(lacking, "lacks seeds", x), marker: { size: 8, color: lacking.map((c) => colour(kind(c))), symbol: "circle-open", opacity: 0.6 } });
  D.studies.forEach((study, n) => traces.push(...frontLines(study, n)));
  traces.push(highlighted(measured, x));
  if (picked) traces.push({ type: "scatter", mode: "markers", name: "the answer", x: picked.map(x), y: picked.map((c) => c.val), hoverinfo: "skip", marker: { symbol: "star", size: 15, color: PICKED, line: { width: 1, color: dark ? "#000" : "#fff" } } });
  const ticks = isSmall ? { dtick: 1 } : { dtick: "D2" };
  Plotly.react("front", traces, layout("total bits of the model as stored", `validation ${O.title} (${O.unit})`, { xaxis: { type: "log", ...ticks, tickformat: "~s", range: [Math.log10(left), Math.log10(right)] }, yaxis: { range: range() } }), config);
}

function axis(name, values, isParameter) {
  // Numbers keep their distances; text gets a place each; what is absent gets a place of its own below.
  const isAbsent = (v) => v === null || v === undefined || v === "";
  const present = values.filter((v) => !isAbsent(v)), isNumeric = present.every((v) => !Number.isNaN(Number(v)));
  const levels = [...new Set(present)].sort((a, b) => (isNumeric ? a - b : String(a).localeCompare(String(b))));
  const place = (v) => (isNumeric ? Number(v) : levels.indexOf(v)), places = levels.map(place);
  const low = places.length ? Math.min(...places) : 0, high = places.length ? Math.max(...places) : 1, room = high - low || 1;
  const absent = low - 0.2 * room, lacks = present.length < values.length;
  const dimension = { label: escape(name), values: values.map((v) => (isAbsent(v) ? absent : place(v))), range: [lacks ? absent : low, high === low ? low + 1 : high] };
  if (isParameter || lacks) {
    const ticks = levels.length <= 8 ? levels : [0, 0.25, 0.5, 0.75, 1].map((part) => levels[Math.round(part * (levels.length - 1))]);
    dimension.tickvals = [...(lacks ? [absent] : []), ...ticks.map(place)];
    dimension.ticktext = [...(lacks ? [isParameter ? "inactive" : "none"] : []), ...ticks.map((v) => (isNumeric ? String(Number(Number(v).toPrecision(4))) : escape(v)))];
  }
  return dimension;
}

const shown = trials.map((trial, n) => ({ ...trial, n })).filter((trial) => trial.val.some((value) => value !== null));
function drawParallel() {
  if (!shown.length || !hasWebGL) return void ($("parallel").textContent = shown.length ? "This picture needs WebGL, which this browser does not have." : "no finished trial yet");
  const hasSeeds = new Set(shown.map((t) => t.seed)).size > 1, widths = W > 5 ? [0, 1, 2, W - 1] : [...Array(W).keys()];
  const dimensions = [...(several ? [axis("study", shown.map(studyOf), true)] : []), ...D.settings.map((name) => axis(name, shown.map((t) => t["p_" + name]), true)),
    ...(hasSeeds ? [axis("seed", shown.map((t) => t.seed), true)] : []), ...widths.map((w) => axis(`${D.widths[w]} (${O.unit})`, shown.map((t) => t.val[w]), false))];
  const own = kinds.slice(0, PALETTE.length), steps = own.flatMap((name, i) => [[i / own.length, colour(name)], [(i + 1) / own.length, colour(name)]]);
  const line = marked.size ? { color: shown.map((t) => (marked.has(t.n) ? 1 : 0)), cmin: 0, cmax: 1, colorscale: [[0, PALE], [1, MARK]] }
    : { color: shown.map((t) => kinds.indexOf(kindOf(t)) % own.length), cmin: -0.5, cmax: own.length - 0.5, colorscale: steps };
  $("parallel").style.minWidth = `${dimensions.length * 92}px`;
  const old = $("parallel").data?.[0]?.dimensions; // ranges that were chosen remain
  if (old) dimensions.forEach((dimension, i) => { if (old[i].constraintrange) dimension.constraintrange = old[i].constraintrange; });
  const trace = { type: "parcoords", dimensions, line, labelfont: { size: 13 }, tickfont: { size: 11, color: INK }, rangefont: { size: 1, color: "rgba(0,0,0,0)" }, unselected: { line: { color: PALE, opacity: 0.15 } } };
  Plotly.react("parallel", [trace], { paper_bgcolor: "rgba(0,0,0,0)", font: { color: INK, family: "system-ui, sans-serif" }, margin: { l: 70, r: 50, t: 40, b: 20 } }, config);
}

function brushed() {
  const inside = (dimension, i) => {
    const limits = dimension.constraintrange;
    return !limits || (Array.isArray(limits[0]) ? limits : [limits]).some(([a, b]) => dimension.values[i] >= a && dimension.values[i] <= b);
  };
  const dimensions = $("parallel").data[0].dimensions;
  chosen = dimensions.some((dimension) => dimension.constraintrange) ? new Set(shown.filter((_, i) => dimensions.every((dimension) => inside(dimension, i))).map((t) => t.n)) : null;
  drawTable();
}

function drawSlice() {
  const name = $("parameter").value, width = Number($("width").value), of = (c) => trials[c.trials[0]]["p_" + name];
  const own = measured.filter((c) => c.width === width && !c.lacks && of(c) !== null && of(c) !== undefined);
  const isText = own.some((c) => Number.isNaN(Number(of(c)))), x = isText ? of : (c) => Number(of(c)), values = [...new Set(own.map(x))];
  const traces = [seedDots(own, x), ...kinds.map((each) => markers(own.filter((c) => kind(c) === each), each, x)).filter((trace) => trace.x.length), highlighted(own, x)];
  Plotly.react("slice", traces, layout(escape(name), `${O.title} at ${D.widths[width] || ""} (${O.unit})`, { xaxis: isText ? { type: "category" } : values.length <= 8 ? { tickvals: values } : {}, showlegend: kinds.length > 1 || marked.size > 0 }), config);
}

const ended = table(D.growth);
function drawGrowth() {
  const traces = D.studies.map((study, n) => {
    const own = ended.filter((row) => row.study === n);
    return { type: "scatter", mode: own.length > 60 && !marked.size ? "lines" : "lines+markers", name: escape(study.name), x: own.map((_, i) => i + 1), y: own.map((r) => r.hypervolume), customdata: own.map((r) => [r.trial]),
      text: own.map((r) => escape(trials[r.trial].name)), hovertemplate: "%{text}: %{y:.2f} %<extra></extra>", line: { shape: "hv", color: several ? colour(study.name) : PALETTE[0] },
      marker: { size: own.map((r) => (marked.has(r.trial) ? 13 : 5)), color: own.map((r) => (marked.has(r.trial) ? MARK : several ? colour(study.name) : PALETTE[0])) } };
  });
  const above = ended.map((r) => r.hypervolume).filter((volume) => volume > 0), low = Math.min(...above), high = Math.max(...above); // 0: none yet
  Plotly.react("growth", traces, layout("finished trials", "% of the reference", { showlegend: several, yaxis: low < Infinity ? { range: [low - 0.1 * (high - low) - 0.05, high + 0.1 * (high - low) + 0.05] } : {} }), config);
  $("scale").textContent = D.scale;
}

const reached = table(D.rungs);
function drawRungs() {
  if (!reached.length) return;
  const traces = [1, 0].map((survived) => {
    const own = reached.filter((row) => row.survived === survived);
    return { type: "scatter", mode: "markers", name: survived ? "went on" : "stopped", x: own.map((r) => r.rung), y: own.map((r) => r.value), customdata: own.map((r) => [r.trial]), text: own.map((r) => escape(trials[r.trial].name)), hovertemplate: "%{text}: %{y:.2f} %<extra></extra>",
      marker: { size: own.map((r) => (marked.has(r.trial) ? 15 : 9)), symbol: survived ? "circle" : "x", color: survived ? "#0072B2" : "#D55E00", opacity: 0.7, line: { width: own.map((r) => (marked.has(r.trial) ? 3 : 0)), color: MARK } } };
  });
  const epochs = [...new Set(reached.map((r) => r.rung))];
  Plotly.react("rungs", traces, layout("epoch of the rung", "accuracy compared (%)", { xaxis: { tickvals: epochs, range: [Math.min(...epochs) - 1, Math.max(...epochs) + 1] } }), config);
}

function drawImportance() {
  const found = table(D.importance), n = 0;
  if (!found.length) return;
  $("importance-part").hidden = false;
  $("evaluator").textContent = D.evaluator;
  const measures = [...new Set(found.map((row) => row.measure))], label = (row) => (several ? `${studyOf(row)}: ` : "") + row.parameter + (row.within ? ` (${row.within})` : "");
  const traces = measures.map((measure, i) => {
    const own = found.filter((row) => row.measure === measure);
    return { type: "bar", orientation: "h", name: escape(measure), x: own.map((r) => r.importance), y: own.map((r) => escape(label(r))), marker: { color: measure === "hypervolume" ? INK : `hsl(203, 90%, ${78 - (48 * i) / Math.max(1, measures.length - 1)}%)` }, hovertemplate: "%{y}: %{x:.2f}<extra></extra>" };
  });
  Plotly.react("importance", traces, layout("share of what varies", "", { barmode: "group", yaxis: { automargin: true, autorange: "reversed" }, xaxis: { range: [0, 1] } }), config);
}

function drawTable() {
  if (!$("table")) return;
  let count = 0;
  trials.forEach((_, n) => {
    const row = $(`t${n}`), isHidden = chosen !== null && !chosen.has(n);
    row.hidden = isHidden;
    row.className = marked.has(n) ? "marked" : "";
    row.setAttribute("aria-selected", marked.has(n));
    count += !isHidden;
  });
  $("count").textContent = `${count} of ${trials.length} trials` + (marked.size ? `, ${marked.size} marked` : "");
}

function mark(numbers, isFromTable = false) {
  marked = new Set(numbers);
  for (const draw of [...(measured.length ? [drawFront, drawParallel, drawSlice, drawGrowth] : []), drawRungs, drawTable]) draw();
  const row = document.querySelector("tr.marked");
  if (row && !isFromTable) row.closest(".scroll").scrollTop = row.offsetTop - 60;
}

function card(title, cell, lines, command, isFirst) {
  const label = cell.label.replace("method=", ""), hints = lines.map((line) => `<div class="hint">${escape(line)}</div>`).join("");
  return `<div class="card${isFirst ? " first" : ""}"><h3>${escape(title)}</h3><div class="figure">${number(cell.val)} ${O.unit} · ${escape(D.widths[cell.width])}</div><div>${escape(label)}</div><div>${whole(cell.size)} bits, ${whole(cell.bytes)} bytes; test ${number(cell.test)} ${O.unit}; n = ${cell.trials.length}</div>${hints}${command ? `<code>${escape(command)}</code>` : ""}</div>`;
}

function why(found) {
  const lines = found.interval ? [`95 % interval ${number(found.interval[1])} to ${number(found.interval[2])} ${O.unit}`] : [];
  if (found.runner_up) lines.push(`runner-up: ${D.widths[cells[found.runner_up[0]].width]}, ${cells[found.runner_up[0]].label.replace("method=", "")}: ${difference(found.runner_up[1])}`);
  if (found.compared && found.interval) lines.push(`${found.alike} of ${found.compared} others cannot be told from it`);
  return lines;
}

// The answers of the study and the kind of limit that are chosen, by their limits, and the one at the slider.
const offered = () => D.studies[Number($("study").value || 0)][$("kind").value];
const isTarget = () => $("kind").value === "targets";
const scaled = (value) => (isTarget() ? value : Math.log2(value));
function place(limit) {
  const limits = offered().map((found) => scaled(found.limit)), low = limits[0], high = limits[limits.length - 1];
  return high !== low ? (1000 * (scaled(limit) - low)) / (high - low) : 1000;
}
function current() {
  const at = Number($("limit").value), places = offered().map((found) => place(found.limit));
  const last = isTarget() ? places.findIndex((each) => each >= at - 0.5) : places.findLastIndex((each) => each <= at + 0.5);
  return Math.max(0, last);
}

function pick() {
  const found = offered()[current()], best = cells[found.best], chosenOne = found.recommended === null ? null : cells[found.recommended];
  $("shown").textContent = isTarget() ? `${O.higher ? "at least" : "at most"} ${number(found.limit)} ${O.unit}` : `at most ${whole(found.limit)} bits (${whole(found.limit / 8)} bytes)`;
  const isSame = found.recommended === found.best, [size, change] = found.change || [0, null];
  const title = isTarget() ? "Smallest whose mean reaches it" : "Best";
  const list = [card(title + (isSame ? ", and recommended" : ""), best, why(found), found.command, isSame)];
  if (chosenOne && !isSame) {
    const lines = [`${Math.abs(size)} % ${size > 0 ? "larger" : "smaller"}` + (isTarget() ? "; its whole interval reaches the target" : `, ${difference(change)} ${O.steps}: no difference can be told`)];
    list.push(card(isTarget() ? "Recommended: the smallest that surely reaches it" : "Recommended: the smallest that cannot be told from it", chosenOne, lines, found.recommended_command, true));
  }
  $("picked").innerHTML = list.join("");
  $("others").hidden = !found.listed.length;
  $("others").firstElementChild.textContent = `What cannot be told from the best: ${found.alike} configuration${found.alike > 1 ? "s" : ""}` + (found.alike > found.listed.length ? `; the smallest ${found.listed.length}` : "");
  $("others").querySelector("table").innerHTML = "<thead><tr><th>bits<th>configuration<th>total bits<th>validation<th>difference</thead>" +
    found.listed.map(([n, d]) => `<tr data-trials="${cells[n].trials}"><td>${escape(D.widths[cells[n].width])}<td>${escape(cells[n].label)}<td>${whole(cells[n].size)}<td>${number(cells[n].val)}<td>${difference(d)}`).join("");
  picked = [chosenOne || best];
  drawFront();
}

function setUpPicker() {
  const restart = () => {
    $("limit").value = isTarget() ? 0 : 1000;
    pick();
  };
  $("study").innerHTML = D.studies.map((study, n) => (study.budgets.length ? `<option value="${n}">${escape(study.name)}</option>` : "")).join("");
  if ($("picker").hidden) return void (measured.length && drawFront());
  $("study-choice").hidden = !several;
  $("study").onchange = $("kind").onchange = restart;
  $("limit").oninput = pick;
  $("limit").onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key], next = offered()[current() + step];
    if (!step) return;
    event.preventDefault();
    if (next) { $("limit").value = place(next.limit); pick(); }
  };
  restart();
}

function setUp() {
  document.documentElement.classList.add("scripted");
  const unfold = (isOpen) => document.querySelectorAll(".answer").forEach((each) => { each.open = isOpen; });
  unfold($("picker").hidden = !D.studies.some((study) => study.budgets.length)); // the picker has the answers, on paper it does not
  addEventListener("beforeprint", () => unfold(true));
  $("pale").hidden = !measured.some((c) => c.seeds);
  $("hollow").hidden = !measured.some((c) => c.lacks);
  $("lines").hidden = !several;
  document.querySelectorAll(".measured").forEach((each) => { each.hidden = !measured.length; });
  $("rungs-part").hidden = !reached.length;
  $("parameter").innerHTML = (D.settings.length ? D.settings : ["method"]).map((name) => `<option>${escape(name)}</option>`).join("");
  $("width").innerHTML = D.widths.map((bits, w) => `<option value="${w}">${escape(bits)}</option>`).join("");
  $("parameter").onchange = $("width").onchange = drawSlice;
  setUpPicker();
  if (measured.length) { drawParallel(); drawSlice(); drawGrowth(); }
  drawRungs(); drawImportance(); drawTable();
  for (const id of ["front", "slice", "growth", "rungs"]) $(id).on?.("plotly_click", (event) => { if (event.points[0].customdata) mark(event.points[0].customdata); });
  $("parallel").on?.("plotly_restyle", brushed);
  if (!$("table")) return;
  const choose = (event) => { const row = event.target.closest("tbody tr"); if (row) mark([Number(row.id.slice(1))], true); };
  $("table").onclick = choose;
  $("table").onkeydown = (event) => { if (event.key === "Enter") choose(event); };
  $("others").onclick = (event) => { const row = event.target.closest("[data-trials]"); if (row) mark(row.dataset.trials.split(",").map(Number)); };
  $("clear").onclick = () => { chosen = null; $("parallel").data?.[0].dimensions.forEach((dimension) => delete dimension.constraintrange); mark([]); };
}
setUp();
