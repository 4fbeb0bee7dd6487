"use strict";
// What the page knows: /metrics and /v1/experts as they were now and one look before.

// Prometheus' text: [{name, labels, value}].
function parseMetrics(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] || "").matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    samples.push({name: found[1], labels, value: Number(found[3].replace("+Inf", "Infinity"))});
  }
  return samples;
}

class Metrics {
  constructor(text, milliseconds) {
    this.samples = parseMetrics(text);
    this.milliseconds = milliseconds;
  }
  all(name) {
    return this.samples.filter((sample) => sample.name === "tokenferry_" + name);
  }
  sum(name, labels = {}) {
    const matches = (sample) => Object.entries(labels).every(([key, value]) => sample.labels[key] === value);
    return this.all(name).filter(matches).reduce((sum, sample) => sum + sample.value, 0);
  }
  // By the bounds of a histogram: how many values were at most so large.
  buckets(name) {
    const counts = new Map();
    for (const {labels, value} of this.all(name + "_bucket")) {
      const bound = Number(labels.le.replace("+Inf", "Infinity"));
      counts.set(bound, (counts.get(bound) || 0) + value);
    }
    return counts;
  }
}

// Per second between two looks.
function rate(now, before, name) {
  const seconds = (now.milliseconds - before.milliseconds) / 1000;
  return seconds > 0 ? Math.max(0, now.sum(name) - before.sum(name)) / seconds : 0;
}

// Of what has come between two looks, within its bucket by interpolation; null when nothing has.
function quantile(now, before, name, share) {
  const was = before.buckets(name);
  const counts = [...now.buckets(name)].sort((a, b) => a[0] - b[0]).map(([bound, n]) => [bound, n - (was.get(bound) || 0)]);
  const total = counts.length ? counts[counts.length - 1][1] : 0;
  if (total <= 0) return null;
  let low = 0, below = 0;
  for (const [bound, n] of counts) {
    if (n >= share * total) return bound === Infinity ? low : low + (bound - low) * (share * total - below) / (n - below || 1);
    [low, below] = [bound, n];
  }
  return low;
}

// Element by element; where the ranks have started anew in between, what they have counted since.
function difference(now, before) {
  if (!Array.isArray(now)) return now >= before ? now - before : now;
  return now.map((value, i) => (before && i < before.length ? difference(value, before[i]) : value));
}

const total = (values) => values.reduce((sum, value) => sum + value, 0);
const mean = (values) => (values.length ? total(values) / values.length : 0);

function shown(value, unit = "") {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 1 ? 1 : 3;
  return value.toLocaleString("en", {maximumFractionDigits: digits}) + unit;
}
