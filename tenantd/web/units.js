// Numbers, times and amounts for people.

export const NOTHING = "–";
const NANOS = 1000000000n;

// How many decimals show all these amounts exactly: 2 to 9.
export function places(amounts, least = 2) {
  return Math.max(least, ...amounts.map((nanos) => {
    const rest = (BigInt(nanos) < 0n ? -BigInt(nanos) : BigInt(nanos)) % NANOS;
    return rest.toString().padStart(9, "0").replace(/0+$/, "").length;
  }));
}

// The exact amount, with at least this many decimals.
export function money(nanos, least = 2) {
  const amount = BigInt(nanos);
  const size = amount < 0n ? -amount : amount;
  const digits = places([nanos], least);
  const rest = (size % NANOS).toString().padStart(9, "0").slice(0, digits);
  return `${amount < 0n ? "-" : ""}${size / NANOS}${digits ? "." + rest : ""}`;
}

// A sum in whole coins of its currency.
export function coins(nanos, currency) {
  let digits = 2;
  try {
    digits = new Intl.NumberFormat("en", { style: "currency", currency }).resolvedOptions().maximumFractionDigits;
  } catch {
    // a currency that nobody else knows
  }
  return money(nanos, digits);
}

// Roughly, with a few decimals, for lists.
export function about(nanos, digits = 2) {
  const unit = 10n ** BigInt(9 - digits);
  return money((BigInt(nanos) + unit / 2n) / unit * unit, digits);
}

export function whole(number) {
  return Math.round(number).toLocaleString("en");
}

// A number in a few characters: 12,345, 123k, 1.23M.
export function count(number) {
  if (number < 100000) return whole(number);
  let scaled = number, unit = "";
  for (const next of "kMGTP") {
    if (scaled < 999.5) break;
    scaled /= 1000;
    unit = next;
  }
  return (scaled < 9.995 ? scaled.toFixed(2) : scaled < 99.95 ? scaled.toFixed(1) : scaled.toFixed(0)) + unit;
}

// How long something took: 12 ms, 1.23 s, 2 m 05 s, 3 h 12 m.
export function lasting(micros) {
  if (micros === null || micros === undefined) return NOTHING;
  if (micros < 1000) return `${Math.round(micros)} µs`;
  if (micros < 999500) return `${(micros / 1e3).toFixed(micros < 9950 ? 1 : 0)} ms`;
  const seconds = micros / 1e6;
  if (seconds < 99.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
  const all = Math.round(seconds);
  if (all < 3600) return `${Math.floor(all / 60)} m ${String(all % 60).padStart(2, "0")} s`;
  return `${whole(Math.floor(all / 3600))} h ${String(Math.floor(all / 60) % 60).padStart(2, "0")} m`;
}

// A rough range of waits: 8–20 s, 40 s–3 min; one of them if they read alike.
export function span(lowMs, highMs) {
  const [low, lowUnit] = roughly(Math.max(1, lowMs / 1000)), [high, unit] = roughly(Math.max(1, Math.ceil(highMs / 1000)));
  if (low === high && lowUnit === unit) return `${high} ${unit}`;
  return lowUnit === unit ? `${low}–${high} ${unit}` : `${low} ${lowUnit}–${high} ${unit}`;
}

function roughly(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return [Math.floor(seconds / size), unit];
  }
  return [Math.floor(seconds), "s"];
}

export function percent(fraction, digits = 0) {
  return fraction === null || fraction === undefined ? NOTHING : `${(fraction * 100).toFixed(digits)}%`;
}

// A time of day, to the minute or second.
export function clock(seconds, timezone, { withSeconds = false } = {}) {
  const form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: timezone, ...(withSeconds ? { second: "2-digit" } : {}) };
  return new Intl.DateTimeFormat("sv-SE", form).format(new Date(seconds * 1000));
}

// A date, or a date and a time, in a time zone: 2026-11-29 14:30:05.
export function moment(micros, timezone, { withTime = true } = {}) {
  if (micros === null || micros === undefined) return NOTHING;
  const time = withTime ? { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" } : {};
  const form = { year: "numeric", month: "2-digit", day: "2-digit", timeZone: timezone, ...time };
  return new Intl.DateTimeFormat("sv-SE", form).format(new Date(micros / 1000));
}
