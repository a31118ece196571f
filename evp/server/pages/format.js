// Numbers with their units, as a person reads them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

export const UNKNOWN = "–";

export const count = (n) => (n == null ? UNKNOWN : whole.format(n));
export const compact = (n) => (n == null ? UNKNOWN : short.format(n));
export const rate = (n) => (n == null ? UNKNOWN : (n > 0 && n < 10 ? fine : whole).format(n));
export const percent = (share) => `${fine.format(100 * share)} %`;
export const clockTime = (ms) => clock.format(ms);
export const dayTime = (ms) => day.format(ms);
export const fullTime = (text) => full.format(new Date(text));

/** A moment of today by its time, an older one with its day. */
export function when(text) {
  const moment = new Date(text);
  const today = moment.toDateString() === new Date().toDateString();
  return today ? moment.toLocaleTimeString("en-GB") : `${dayTime(moment)}, ${clockTime(moment)}`;
}

/** Milliseconds: `12 ms`, `3.4 s`. */
export function millis(ms) {
  if (ms == null) return UNKNOWN;
  return ms < 1000 ? `${(ms < 10 ? fine : whole).format(ms)} ms` : seconds(ms / 1000);
}

/** Seconds: `0.4 s`, `12 s`, `3 min`, `2.5 h`, `4 d`. */
export function seconds(s) {
  if (s == null) return UNKNOWN;
  if (s < 10) return `${fine.format(s)} s`;
  if (s < 120) return `${whole.format(s)} s`;
  if (s < 7200) return `${whole.format(s / 60)} min`;
  if (s < 172800) return `${fine.format(s / 3600)} h`;
  return `${fine.format(s / 86400)} d`;
}

/** Bytes: `512 B`, `3.1 MiB`. */
export function bytes(n) {
  if (n == null) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = n;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${(unit > 1 ? fine : whole).format(size)} ${units[unit]}`;
}

/** A foreign text with its control characters made visible; what it holds is never markup here. */
export function printable(text) {
  return String(text).replace(/[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu, (char) =>
    char === "\n" ? char : `\\u{${char.codePointAt(0).toString(16)}}`,
  );
}
