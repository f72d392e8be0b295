// Draw the losses of a deposit with uPlot, and again whenever htmx brings newer ones.
"use strict";
const COLOURS = ["#3b5bdb", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#c2255c", "#846358", "#5c7cfa", "#f08c00"];

function draw(figure) {
  if (figure.dataset.isDrawn) return;
  figure.dataset.isDrawn = "yes";
  const curve = JSON.parse(figure.dataset.curve);
  const names = Object.keys(curve).filter((name) => name !== "step");
  if (!curve.step || curve.step.length < 2) return;
  const ink = getComputedStyle(figure).color;
  const axis = { stroke: ink, grid: { stroke: "#8885", width: 1 }, ticks: { stroke: "#8885" } };
  const isDecade = (value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6;
  const decades = (_, splits) => splits.map((value) => (isDecade(value) ? value : null));
  const logarithmic = {
    ...axis, size: 64, filter: decades, grid: { ...axis.grid, filter: decades }, ticks: { ...axis.ticks, filter: decades },
    values: (_, splits) => splits.map((value) => (value === null ? "" : String(Number(value.toPrecision(1))))),
  };
  const series = names.map((name, number) => ({
    label: name, stroke: COLOURS[number % COLOURS.length], width: name === "total" ? 3 : 1.5, points: { show: false },
  }));
  // A logarithmic scale cannot show values of 0 or below.
  const values = names.map((name) => curve[name].map((value) => (value > 0 ? value : null)));
  const plot = new uPlot(
    { width: figure.clientWidth, height: 240, series: [{ label: "step" }, ...series],
      scales: { x: { time: false }, y: { distr: 3 } }, axes: [axis, logarithmic], legend: { live: false } },
    [curve.step, ...values],
    figure,
  );
  new ResizeObserver(() => plot.setSize({ width: figure.clientWidth, height: 240 })).observe(figure);
}

function drawAll() {
  document.querySelectorAll("[data-curve]").forEach(draw);
}

document.addEventListener("DOMContentLoaded", drawAll);
document.addEventListener("htmx:afterSwap", drawAll);
