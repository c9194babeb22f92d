"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const memory = data.memory;
const words = data.vocabulary;
const state = { layer: 0, clusters: "all", clusterText: "", tokenText: "", cellText: "", token: null };
const sorting = { tokens: ["count", -1], cells: ["magnitude", -1] };
const SHOWN = 60;

const byId = (id) => document.getElementById(id);
const word = (id) => words[id] ?? "#" + id;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function tokenChip(id, value) {
  const chip = element("button", { class: "chip", type: "button", title: "token " + id, onclick: () => openToken(id) }, word(id));
  if (value !== undefined) chip.append(element("small", {}, value));
  return chip;
}

function cellChip(cell, value) {
  const open = () => { state.cellText = "#" + cell; byId("cell-search").value = state.cellText; drawCells(); go("cells"); };
  return element("button", { class: "chip", type: "button", title: "cell " + cell, onclick: (event) => { event.stopPropagation(); open(); } },
    String(cell), element("small", {}, value.toFixed(2)));
}

function go(id) { byId(id).scrollIntoView(); }

function clusterOf(layer, number) { return layer.clusters.find((cluster) => cluster.cluster === number); }

function hue(number) { return `hsl(${(number * 137.5) % 360} 62% 52%)`; }

function openToken(id) {
  state.token = id;
  drawToken();
  byId("token").scrollIntoView({ block: "center" });
}

function drawClusters() {
  const layer = memory.layers[state.layer];
  const wanted = state.clusterText.toLowerCase();
  const fits = (cluster) => (state.clusters === "all" || cluster.named === (state.clusters === "named"))
    && (!wanted || cluster.name.toLowerCase().includes(wanted) || cluster.tokens.some((id) => word(id).toLowerCase().includes(wanted)));
  const found = layer.clusters.filter(fits);
  byId("clusters-of").textContent = `Layer ${state.layer}: ${layer.clusters.filter((each) => each.named).length} of ${layer.clusters.length} clusters are named; `
    + `${found.length} shown.`;
  byId("cluster-cards").replaceChildren(...found.map((cluster) => element("article", { class: cluster.named ? "card" : "card unnamed" },
    element("h3", {}, cluster.named ? cluster.name : "unnamed"),
    element("div", { class: "meter" }, element("i", { style: `width:${100 * cluster.confidence}%` })),
    element("p", {}, `${cluster.size.toLocaleString("en")} tokens · `
      + (cluster.named ? `${Math.round(100 * cluster.confidence)}% fit, ${(100 * cluster.base_rate).toFixed(1)}% of the vocabulary do`
        : `the best trait fits ${Math.round(100 * cluster.confidence)}%`)
      + (cluster.also.length ? ` · also: ${cluster.also.join("; ")}` : "")),
    ...cluster.tokens.slice(0, 18).map((id) => tokenChip(id)))));
}

const tip = byId("tip");
function tell(event, text) {
  tip.textContent = text;
  tip.classList.add("on");
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 330) + "px";
  tip.style.top = event.clientY + 14 + "px";
}

function drawMap() {
  const layer = memory.layers[state.layer];
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 1000 600");
  const place = new Map(memory.tokens.map((id, index) => [id, index]));
  for (const [id, x, y] of layer.map) {
    const number = layer.of_tokens.cluster[place.get(id)];
    const circle = document.createElementNS(space, "circle");
    circle.setAttribute("cx", (12 + 976 * x).toFixed(1));
    circle.setAttribute("cy", (12 + 576 * y).toFixed(1));
    circle.setAttribute("r", "5");
    circle.setAttribute("fill", hue(number));
    circle.dataset.cluster = number;
    circle.addEventListener("pointermove", (event) => tell(event, `${word(id)}\ncluster ${number}: ${clusterOf(layer, number).name}`));
    circle.addEventListener("pointerenter", () => svg.querySelectorAll("circle").forEach((each) => each.classList.toggle("dim", each.dataset.cluster !== String(number))));
    circle.addEventListener("pointerleave", () => { tip.classList.remove("on"); svg.querySelectorAll(".dim").forEach((each) => each.classList.remove("dim")); });
    circle.addEventListener("click", () => openToken(id));
    svg.append(circle);
  }
  byId("map-plot").replaceChildren(svg);
}

function sorted(rows, [key, direction]) {
  return rows.sort((a, b) => direction * (typeof a[key] === "string" ? a[key].localeCompare(b[key]) : a[key] - b[key]) || a.id - b.id);
}

function markSorting(table, [key, direction]) {
  for (const head of byId(table).querySelectorAll("th[data-sort]")) {
    if (head.dataset.sort === key) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

function drawTokens() {
  const of = memory.layers[state.layer].of_tokens;
  const layer = memory.layers[state.layer];
  const wanted = state.tokenText.toLowerCase();
  const isId = /^#\d+$/.test(wanted);
  const rows = [];
  memory.tokens.forEach((id, index) => {
    if (isId ? "#" + id !== wanted : !word(id).toLowerCase().includes(wanted)) return;
    rows.push({ id, index, text: word(id), count: memory.counts ? memory.counts[index] : 0, outliers: of.outliers[index], cluster: of.cluster[index],
      strongest: Math.abs(of.cells[index][0][1]) });
  });
  const shown = sorted(rows, sorting.tokens).slice(0, SHOWN);
  byId("tokens-of").textContent = `${rows.length.toLocaleString("en")} of ${memory.tokens.length.toLocaleString("en")} tokens match; ${shown.length} shown, layer ${state.layer}. `
    + "Click a row for all layers.";
  byId("token-rows").replaceChildren(...shown.map((row) => element("tr", { tabindex: 0, onclick: () => openToken(row.id),
    onkeydown: (event) => { if (event.key === "Enter") openToken(row.id); } },
    element("td", {}, element("span", { class: "chip" }, row.text)), element("td", { class: "num" }, String(row.id)),
    element("td", { class: "num" }, memory.counts ? row.count.toLocaleString("en") : "–"), element("td", { class: "num" }, String(row.outliers)),
    element("td", {}, clusterOf(layer, row.cluster).name),
    element("td", {}, ...of.cells[row.index].slice(0, 3).map(([cell, value]) => cellChip(cell, value))),
    element("td", {}, ...of.near[row.index].slice(0, 4).map(([id]) => element("span", { class: "chip" }, word(id)))))));
  markSorting("tokens-table", sorting.tokens);
}

function drawToken() {
  const box = byId("token");
  const index = memory.tokens.indexOf(state.token);
  if (state.token === null) { box.hidden = true; return; }
  box.hidden = false;
  const title = element("h3", {}, "Token ", element("span", { class: "chip" }, word(state.token)), ` id ${state.token}`);
  if (index < 0) { box.replaceChildren(title, element("p", { class: "note" }, "This token is not among those looked at one by one; `tolbooth inspect token` shows it.")); return; }
  box.replaceChildren(title, element("div", { class: "scroll" }, element("table", {},
    element("thead", {}, element("tr", {}, ...["layer", "cluster", "strongest cells", "nearest tokens", "outliers"].map((name) => element("th", {}, name)))),
    element("tbody", {}, ...memory.layers.map((layer) => element("tr", {}, element("td", {}, String(layer.layer)),
      element("td", {}, clusterOf(layer, layer.of_tokens.cluster[index]).name),
      element("td", {}, ...layer.of_tokens.cells[index].map(([cell, value]) => element("span", { class: "chip" }, String(cell), element("small", {}, value.toFixed(2))))),
      element("td", {}, ...layer.of_tokens.near[index].map(([id, cosine]) => tokenChip(id, cosine.toFixed(2)))),
      element("td", { class: "num" }, String(layer.of_tokens.outliers[index]))))))));
}

function drawCells() {
  const layer = memory.layers[state.layer];
  const wanted = state.cellText.toLowerCase();
  const isId = /^#?\d+$/.test(wanted);
  const names = (ids) => ids.map(word).join(" ").toLowerCase();
  const rows = layer.cells.filter((cell) => isId ? "#" + cell.cell === "#" + wanted.replace("#", "")
    : !wanted || names([...cell.tokens.map(([id]) => id), ...cell.up, ...cell.down]).includes(wanted));
  const shown = sorted(rows.map((cell) => ({ ...cell, id: cell.cell })), sorting.cells).slice(0, SHOWN);
  byId("cells-of").textContent = `${rows.length.toLocaleString("en")} of the ${layer.cells.length.toLocaleString("en")} cells that are read most match; ${shown.length} shown, layer ${state.layer}.`;
  byId("cell-rows").replaceChildren(...shown.map((cell) => element("tr", {},
    element("td", { class: "num" }, String(cell.cell)), element("td", { class: "num" }, cell.magnitude.toPrecision(3)),
    element("td", {}, ...cell.tokens.slice(0, 6).map(([id, value]) => tokenChip(id, value.toFixed(2)))),
    element("td", {}, ...cell.up.slice(0, 5).map((id) => tokenChip(id))), element("td", {}, ...cell.down.slice(0, 5).map((id) => tokenChip(id))))));
  markSorting("cells-table", sorting.cells);
}

function drawLayer() {
  for (const pick of document.querySelectorAll(".layers")) {
    pick.replaceChildren(element("span", {}, "layer"), ...memory.layers.map((layer) => element("button", { type: "button", "aria-pressed": String(layer.layer === state.layer),
      onclick: () => { state.layer = layer.layer; drawLayer(); } }, String(layer.layer))));
  }
  drawClusters();
  drawMap();
  drawTokens();
  drawCells();
}

byId("cluster-search").addEventListener("input", (event) => { state.clusterText = event.target.value; drawClusters(); });
byId("token-search").addEventListener("input", (event) => { state.tokenText = event.target.value; drawTokens(); });
byId("cell-search").addEventListener("input", (event) => { state.cellText = event.target.value; drawCells(); });
for (const button of document.querySelectorAll("#cluster-filter button")) {
  button.addEventListener("click", () => {
    state.clusters = button.dataset.show;
    for (const each of document.querySelectorAll("#cluster-filter button")) each.setAttribute("aria-pressed", String(each === button));
    drawClusters();
  });
}
for (const [table, draw] of [["tokens", drawTokens], ["cells", drawCells]]) {
  for (const head of byId(table + "-table").querySelectorAll("th[data-sort]")) {
    head.addEventListener("click", () => {
      const [key, direction] = sorting[table];
      sorting[table] = [head.dataset.sort, key === head.dataset.sort ? -direction : head.dataset.sort === "text" ? 1 : -1];
      draw();
    });
  }
}
byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) link.classList.toggle("here", id === entry.target.id);
}, { rootMargin: "-20% 0px -70% 0px" });
for (const id of links.keys()) watcher.observe(byId(id));
drawLayer();
