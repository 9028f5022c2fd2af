"use strict";
// What a link chooses is in the address after #: label=u1o&value=3, doubt=cut, clip=17, ...
// Whatever comes from the data becomes text: no string is ever read as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);
const column = Object.fromEntries(data.labels.map((label, n) => [label.name, n]));
const PAGE = 24;  // clips shown at once
const still = matchMedia("(prefers-reduced-motion: reduce)");
let playing = !still.matches;
let overviewAt = 0, left = null;  // where the overview was scrolled to, and the link that was taken

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function shape(kind, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// A clip with what one label says drawn on it

/** The labels that are drawn together: where, and which way or which colour. */
function together(label) {
  return data.labels.filter((l) => l.source === label.source && l.pattern === label.pattern);
}

function overlay(clip, label) {
  const drawing = shape("svg", { viewBox: `0 0 ${2 * data.side} ${data.side}`, "aria-hidden": "true" });
  const halves = label.source === "u" || label.source === "v" ? [0, 1] : [0];  // colours: no flow
  for (const half of halves) {
    const group = shape("g", { transform: `translate(${half * data.side},0)` });
    draw(group, clip, label, clip.labels, false);
    if (clip.predicted) draw(group, clip, label, clip.predicted, true);  // dashed: what is below shows
    drawing.append(group);
  }
  return drawing;
}

function draw(group, clip, label, values, guessed) {
  const colour = guessed ? "var(--predicted)" : "var(--true)";
  const style = guessed ? "block guess" : "block";
  for (const one of together(label)) {
    const value = values[column[one.name]];
    if (!value || (guessed && value === clip.labels[column[one.name]])) continue;
    if (one.kind === "position") {
      const path = data.blocks[one.pattern - 1][value - 1];
      if (!guessed) group.append(shape("path", { d: path, class: "halo" }));
      group.append(shape("path", { d: path, class: style, stroke: colour }));
    } else if (one.kind === "orientation") {
      const [x, y] = clip.arrows[(one.source === "u" ? 0 : 3) + one.pattern - 1];
      arrow(group, x, y, value, guessed ? colour : "#fff");
    } else if (one.kind === "colour") {
      const x = data.side - (guessed ? 24 : 10);
      group.append(shape("circle", { cx: x, cy: 10, r: 6, fill: data.colours[value - 1],
        stroke: guessed ? "var(--predicted)" : "#fff", "stroke-width": 2, "stroke-dasharray": guessed ? "3 2" : "none" }));
    }
  }
}

function arrow(group, x, y, octant, colour) {
  const angle = Math.PI / 4 * (octant - 1), length = 14, edge = length + 3;
  x = Math.min(Math.max(x, edge), data.side - edge);
  y = Math.min(Math.max(y, edge), data.side - edge);
  const point = (along, aside) => `${x + along * Math.cos(angle) - aside * Math.sin(angle)},${y + along * Math.sin(angle) + aside * Math.cos(angle)}`;
  const path = `M${point(-length, -1.3)}L${point(length - 9, -1.3)}L${point(length - 9, -5)}L${point(length, 0)}L${point(length - 9, 5)}L${point(length - 9, 1.3)}L${point(-length, 1.3)}Z`;
  group.append(shape("path", { d: path, fill: colour, stroke: "#000", "stroke-width": 1.2 }));
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.dataset.seen = isIntersecting ? "1" : "";
    run(target);
  }
});

function run(video) {
  if (playing && video.dataset.seen) video.play().catch(() => {}); else video.pause();
}

function stage(clip, label) {
  const video = element("video", { loop: "", playsinline: "", preload: "auto",
    "aria-label": `${clip.video} from frame ${clip.start}: frames, and flow beside` });
  video.muted = true;
  video.src = "data:video/mp4;base64," + clip.film;
  const box = element("div", { class: "stage" }, video, overlay(clip, label));
  video.onerror = () => box.replaceChildren(element("p", { class: "failed" }, "This browser does not play H.264 video."));
  seen.observe(video);
  const figure = element("div", {}, box);
  const time = data.labels.find((l) => l.kind === "frame" && l.source === label.source);
  if (time) figure.append(timeLine(video, clip, time));
  return figure;
}

/** The flow fields of a clip in a row: which is now, which is strongest. */
function timeLine(video, clip, label) {
  const fields = data.clipLength - 1, line = element("div", { class: "time" });
  const value = clip.labels[column[label.name]], guess = clip.predicted && clip.predicted[column[label.name]];
  line.title = `${label.name}: ${label.values[value]}`;
  for (let field = 1; field <= fields; field++) {
    const kind = (field === value ? "is " : "") + (guess && field === guess && guess !== value ? "guessed" : "");
    line.append(element("i", { class: kind }));
  }
  const tick = () => {  // as often as a picture is shown: never of a video that is still
    const now = Math.min(Math.floor(video.currentTime / video.duration * data.clipLength), fields - 1);
    [...line.children].forEach((field, n) => field.classList.toggle("now", n === now));
    video.requestVideoFrameCallback(tick);
  };
  video.requestVideoFrameCallback?.(tick);  // older browsers go without
  return line;
}

/** Whether a prediction is wrong: it cannot be where it is not learned, or there is no label. */
function isWrong(clip, n) {
  return clip.predicted !== null && clip.predicted[n] > 0 && clip.labels[n] > 0 && clip.predicted[n] !== clip.labels[n];
}

function says(clip, label) {
  const n = column[label.name], value = clip.labels[n], guess = clip.predicted ? clip.predicted[n] : 0;
  return `${label.name} ${value}: ${label.values[value]}` +
    (guess ? guess === value ? ", predicted so" : `; predicted ${guess}: ${label.values[guess]}` : "");
}

function card(n, label) {
  const clip = data.clips[n], caption = element("figcaption");
  const link = element("a", { href: `#clip=${n}` }, clip.video);
  caption.append(element("p", {}, link, ` · frames ${clip.start}–${clip.start + data.span - 1}`));
  for (const one of together(label)) caption.append(element("p", { class: "faint" }, says(clip, one)));
  if (clip.wrong !== null) caption.append(element("p", {}, `${clip.wrong} labels wrong`));
  for (const doubt of clip.doubts) caption.append(doubtful(doubt));
  return element("figure", { class: "clip" }, stage(clip, label), caption);
}

function doubtful([kind, words, twin]) {
  const line = element("p", { class: "doubt" }, `${kind}: ${words} `);
  if (twin !== null) line.append(element("a", { href: `#clip=${twin}` }, data.clips[twin].video));
  return line;
}

// Views

/** What an address gives as a number; -1: it does not. */
function number(text) {
  return /^\d+$/.test(text) ? Number(text) : -1;
}

/** What the address asks for, some of {title, lead, clips, one, label, card}; null: the overview. */
function view(asked) {
  const all = data.clips.map((_, n) => n);
  const doubtsFirst = (a, b) => data.clips[b].doubts.length - data.clips[a].doubts.length || a - b;
  const errorsFirst = (a, b) => data.clips[b].wrong - data.clips[a].wrong || a - b;
  const label = data.labels[column[asked.get("label")] ?? -1];
  if (asked.has("label")) {
    if (!label) return { title: `There is no label ${asked.get("label")}` };
    const n = column[label.name], errors = asked.has("errors");
    let found = all, title = `${label.name}: ${label.words}`;
    for (const [by, of, words] of [["value", "labels", ""], ["predicted", "predicted", "predicted "]]) {
      if (!asked.has(by)) continue;
      const value = number(asked.get(by));
      if (label.values[value] === undefined) return { title: `${label.name} has no value ${asked.get(by)}`, label, card: label.name };
      found = found.filter((c) => data.clips[c][of] && data.clips[c][of][n] === value);
      title = `${label.name} ${words}${value}: ${label.values[value]}`;
    }
    if (errors) found = found.filter((c) => isWrong(data.clips[c], n));
    const share = (100 * found.length / all.length).toFixed(0);
    return { title, lead: `${found.length} of ${all.length} clips (${share} %)` + (errors ? " predicted wrongly" : "") + `. ${label.words}.`,
      clips: [...found].sort(errors ? errorsFirst : doubtsFirst), label, card: label.name };
  }
  if (asked.has("doubt")) {
    const kind = asked.get("doubt"), badness = (n) => Math.max(...data.clips[n].doubts.filter((d) => d[0] === kind).map((d) => d[3]));
    const found = all.filter((n) => data.clips[n].doubts.some((d) => d[0] === kind));
    return { title: `Clips to doubt: ${kind}`, lead: Object.hasOwn(data.kinds, kind) ? data.kinds[kind] : "There is no such kind.", clips: found.sort((a, b) => badness(b) - badness(a)) };
  }
  if (asked.has("errors")) return { title: "Clips with the most wrong labels first", clips: data.clips[0].predicted ? all.sort(errorsFirst) : [] };
  if (asked.has("clips")) return { title: `All ${all.length} clips`, lead: "Those to doubt first.", clips: all.sort(doubtsFirst) };
  if (asked.has("clip")) {
    const clip = data.clips[number(asked.get("clip"))];
    if (!clip) return { title: "There is no such clip" };
    return { title: clip.video, lead: `Frames ${clip.start} to ${clip.start + data.span - 1}` + (clip.class === null ? "" : `, class ${clip.class}`), one: clip };
  }
  return null;
}

let rest = [], shown = null;

function route() {
  const hash = location.hash.slice(1), asked = new URLSearchParams(hash);
  if (part("view").hidden) [overviewAt, left] = [scrollY, document.activeElement];
  const chosen = view(asked);
  shown = chosen && { lead: "", clips: [], label: data.labels[0], ...chosen };
  part("all").hidden = shown !== null;
  part("view").hidden = shown === null;
  part("clips").replaceChildren();
  part("choice").replaceChildren();
  if (shown === null) {
    const section = hash && !hash.includes("=") && document.getElementById(hash);
    if (section) section.scrollIntoView(); else { scrollTo(0, hash ? 0 : overviewAt); left?.focus({ preventScroll: true }); }
    return;
  }
  part("heading").textContent = shown.title;
  part("lead").textContent = shown.lead;
  if (shown.card) part("choice").append(drawingOf(shown.card, asked));
  rest = shown.clips;
  if (shown.one) part("clips").append(one(shown.one)); else more();
  scrollTo(0, 0);
  part("heading").focus({ preventScroll: true });
}

/** The label's card again, to choose another value. */
function drawingOf(name, asked) {
  const again = part(`card-${name}`).cloneNode(true);
  again.removeAttribute("id");
  again.classList.remove("little");
  for (const by of ["value", "predicted"]) {
    again.querySelector(`.${by} [data-value="${CSS.escape(asked.get(by) ?? "")}"]`)?.setAttribute("aria-current", "true");
  }
  return again;
}

function more() {
  const cards = rest.slice(0, PAGE).map((n) => card(n, shown.label));
  part("clips").append(...cards);
  rest = rest.slice(PAGE);
  part("more").hidden = !rest.length;
  part("more").textContent = `Show ${Math.min(PAGE, rest.length)} more of ${rest.length}`;
  return cards;
}

/** One clip, and a button for each label that draws it. */
function one(clip) {
  const figure = element("figure", { class: "clip" }), rows = element("tbody");
  const show = (label) => {
    const before = figure.querySelector("video"), at = before ? before.currentTime : 0;
    figure.replaceChildren(stage(clip, label), element("figcaption", {}, ...clip.doubts.map(doubtful)));
    figure.querySelector("video").currentTime = at;
    for (const button of rows.querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === label.name);
  };
  for (const label of data.labels) {
    const n = column[label.name], guess = clip.predicted ? clip.predicted[n] : 0;
    const button = element("button", { type: "button", value: label.name, title: label.words }, label.name);
    button.onclick = () => show(label);
    const row = element("tr", {}, element("th", { scope: "row" }, button),
      element("td", {}, element("a", { href: `#label=${label.name}&value=${clip.labels[n]}` }, label.values[clip.labels[n]])));
    if (guess) row.append(element("td", { class: isWrong(clip, n) ? "wrong" : guess === clip.labels[n] ? "hit" : "" }, label.values[guess]));
    rows.append(row);
  }
  const table = element("table", { class: "choices" }, rows);
  if (clip.predicted) table.prepend(element("thead", {}, element("tr", {}, element("th"), element("th", {}, "label"), element("th", {}, "predicted"))));
  show(data.labels[0]);
  return element("div", { class: "one" }, figure, table);
}

// Keys

function play(on) {
  playing = on;
  part("play").textContent = on ? "Pause" : "Play";
  document.querySelectorAll("video").forEach(run);
}

/** The link before or after the chosen one in the label's drawing. */
function beside(step) {
  const chosen = part("choice").querySelector("[aria-current]");
  if (!chosen) return;
  const links = [...chosen.closest("figure").querySelectorAll("a[data-value]")];
  // Back leads to where the drawing was chosen, not through all values in between.
  location.replace(links[(links.indexOf(chosen) + step + links.length) % links.length].getAttribute("href"));
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape" && !part("view").hidden) location.hash = "";
  else if (event.key === "ArrowRight") beside(1);
  else if (event.key === "ArrowLeft") beside(-1);
  else if (event.key === " " && !event.target.closest("a, button, summary")) { event.preventDefault(); play(!playing); }
});
part("play").onclick = () => play(!playing);
part("more").onclick = () => more()[0].querySelector("a").focus({ preventScroll: true });  // what is new
addEventListener("hashchange", route);
play(playing);
route();
