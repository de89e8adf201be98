// Charts: uPlot with the page's colours, as wide as their place, drawn again when the colour scheme changes.

/* global uPlot */

import { clock } from "./units.js";

const HEIGHT = 230;
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const COLOURS = 12;

export function lineColour(number) {
  return colour(`--c${number % COLOURS}`);
}

// The class of a mark in the same colour.
export function lineClass(number) {
  return `mark line${number % COLOURS}`;
}

function axis(more) {
  return {
    stroke: colour("--soft"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1 },
    font: "12px system-ui, sans-serif", ...more,
  };
}

// The labels of an axis of time.
export function times(timezone) {
  return (_, all, number, space, step) => all.map((seconds) => clock(seconds, timezone, { withSeconds: step < 60 }));
}

// A chart in `place`. `describe` gives its series and the form of its axes; `label` says what it shows.
export class Chart {
  constructor(place, label, describe) {
    this.place = place;
    this.describe = describe;
    this.data = [[]];
    this.plot = null;
    this.shape = "";
    this.isOver = false;
    place.classList.add("chart");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", label);
    this.watching = new ResizeObserver(() => this.resize());
    this.watching.observe(place);
    this.redraw = () => this.draw(true);
    dark.addEventListener("change", this.redraw);
  }

  set(data) {
    this.data = data;
    this.draw(false);
  }

  // `anew`: with other series or colours.
  draw(anew) {
    if (this.isOver) return;
    const described = this.describe();
    const shape = JSON.stringify(described.series);
    if (this.plot && !anew && shape === this.shape) {
      this.plot.setData(this.data);
      return;
    }
    this.plot?.destroy();
    this.shape = shape;
    const { form, bars } = described;
    const series = described.series.map((one) => ({ points: { show: false }, ...one, ...(bars ? { paths: uPlot.paths.bars({ size: [0.7, 60] }) } : {}) }));
    this.plot = new uPlot({
      width: Math.max(200, this.place.clientWidth), height: HEIGHT, legend: { show: false },
      cursor: { show: false }, padding: [8, 12, 0, 0],
      scales: { x: { time: !bars, range: described.range }, y: { range: (_, low, high) => [0, described.most ?? Math.max(high, 1e-9) * 1.1] } },
      axes: [axis({ values: described.names, space: 70, size: 32 }), axis({ size: 64, values: (_, all) => all.map(form) })],
      series: [{}, ...series],
    }, this.data, this.place);
  }

  resize() {
    this.plot?.setSize({ width: Math.max(200, this.place.clientWidth), height: HEIGHT });
  }

  end() {
    this.isOver = true;
    this.plot?.destroy();
    this.watching.disconnect();
    dark.removeEventListener("change", this.redraw);
  }
}

// The hour until the last sample; less if less is known, but never less than two minutes.
export function hourRange(ended) {
  const last = ended.length ? ended[ended.length - 1] : Date.now() / 1000;
  const first = ended.length ? ended[0] : last;
  return [Math.min(last - 120, Math.max(first, last - 3600)), last];
}
