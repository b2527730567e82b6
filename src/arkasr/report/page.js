"use strict";

const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const merged = (base, more) => ({ ...base, ...more });

// plotly.js is embedded compressed; it is decompressed when a chart is first visible.
let plotly = null;
function loadPlotly() {
  plotly ??= (async () => {
    const compressed = Uint8Array.from(atob(document.getElementById("plotly").textContent), c => c.charCodeAt(0));
    const decompressed = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(decompressed).text();
    document.head.append(script);
    return window.Plotly;
  })();
  return plotly;
}

function themed(layout) {
  const size = 13;
  const axis = ({ title, ...rest }) => merged(rest, { gridcolor: style("--line"), title: merged(title, { font: { size } }) });
  return merged(layout, {
    paper_bgcolor: style("--card"), // not transparent, for the saved picture
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style("--ink"), family: getComputedStyle(document.body).fontFamily, size },
    hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line") },
    // Dragging a finger scrolls the page; dragging a mouse zooms.
    dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false,
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
  });
}

const drawnCharts = new Set();
async function draw(chart) {
  const { data, layout } = JSON.parse(chart.nextElementSibling.textContent);
  const Plotly = await loadPlotly();
  drawnCharts.add(chart);
  Plotly.react(chart, data, themed(layout), {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: chart.dataset.name },
  });
}
const inView = new IntersectionObserver(entries => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      inView.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "300px" });
document.querySelectorAll(".chart").forEach(chart => inView.observe(chart));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawnCharts.forEach(draw));

const player = new Audio();
let playing = null;
function stop() {
  player.pause();
  if (playing) {
    playing.classList.remove("playing");
    playing.ariaLabel = playing.ariaLabel.replace("Stop", "Play");
    playing = null;
  }
}
player.addEventListener("ended", stop);
document.addEventListener("click", event => {
  const button = event.target.closest(".play");
  if (!button) return;
  const again = button === playing;
  stop();
  if (again) return;
  playing = button;
  button.classList.add("playing");
  button.ariaLabel = button.ariaLabel.replace("Play", "Stop");
  player.src = button.dataset.clip;
  player.play().catch(stop);
});

const tools = document.querySelector(".tools");
const items = [...document.querySelectorAll("article")];
const numbers = text => text.trim().split(/\s+/).map(Number);
items.forEach((item, index) => {
  item.index = index;
  item.errors = numbers(item.dataset.errors);
  item.searchText = item.textContent.replace(/\s+/g, " ").toLowerCase();
});

function filter() {
  const wanted = tools.filter.value.trim().toLowerCase();
  let shown = 0;
  for (const item of items) {
    item.hidden = !item.searchText.includes(wanted);
    shown += !item.hidden;
  }
  if (wanted) {
    for (const set of document.querySelectorAll(".set")) set.open = set.querySelector("article:not([hidden])") !== null;
  }
  tools.querySelector("output").textContent = wanted ? `${shown} of ${items.length} shown` : "";
}

// An order has one weight per variant; items with a higher weighted sum of errors come first.
function sort() {
  const weights = tools.order.value ? numbers(tools.order.value) : [];
  const score = item => weights.reduce((sum, weight, index) => sum + weight * item.errors[index], 0);
  for (const list of document.querySelectorAll(".items")) {
    list.append(...[...list.children].sort((a, b) => score(b) - score(a) || a.index - b.index));
  }
}
tools.addEventListener("submit", event => event.preventDefault());
tools.addEventListener("input", event => (event.target.name === "order" ? sort() : filter()));
