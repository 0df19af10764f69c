
"use strict";
// Names come from files of others: they are put on the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const LIMIT = 300; // rows of the list before "show all"
const LIMITS = [0, 0.5, 1, 2, 3, 5, 10, 100]; // size bins, percent of the image
const state = { set: 0, measure: 0, video: 0, frame: 0, all: false };

const the = {
  get set() { return data.sets[state.set]; },
  get video() { return this.set.videos[state.video]; },
  get measure() { return data.measures[state.measure]; },
};

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "rect", "line", "text", "image", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const digits = (value) => (value == null ? "–" : value.toFixed(4));
const words = (measure) => `${measure[0]} · ${measure[1].replaceAll("_", " ")}`;
const defined = (values) => values.filter((value) => value != null);
const ceiling = (values) => {
  const most = Math.max(1e-9, ...values);
  if (most > 0.5 && most <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= most);
};
const largest = (list) => list.reduce((most, value) => Math.max(most, value ?? 0), 0);
const bar = (value, top) => make("svg", { class: "bar", "aria-hidden": "true" },
  make("rect", { width: `${Math.max(0, Math.min(100, (100 * (value ?? 0)) / top))}%`, height: "100%" }));

/** A frame's name as nodes: names that run from right to left do not turn what stands beside them. */
const named = (video, frame) => [make("bdi", {}, video.name), " / ", make("bdi", {}, video.frames[frame])];

/** The series over frames of a number: of its class, or, where it is a mean over classes, of every class. */
function series(video, [protocol, metric, classId] = inFrames(video)) {
  return data.measures.flatMap(([p, m, c], i) =>
    p === protocol && m === metric && (c === classId || classId === "mean") && video.values[i] ? [video.values[i]] : []);
}
/** The chosen number; where frames do not have it, the first one that they have. */
function inFrames(video) {
  return [the.measure, ...data.measures].find((measure) => series(video, measure).length) || the.measure;
}
/** Areas of truth and prediction of the chosen class, or of all classes together; null where they are not known. */
function areas(video) {
  const kept = video.areas || {};
  return kept[the.measure[2]] || (Object.keys(kept).length === 1 ? Object.values(kept)[0] : null);
}

function picture(entry, label) {
  const [width, height] = entry.size;
  const node = make("svg", { class: entry.frame ? "picture" : "picture bare", viewBox: `0 0 ${width} ${height}`,
    role: "img", "aria-label": label });
  if (entry.frame) node.append(make("image", { href: entry.frame, width, height }));
  // Of several classes the one whose number is chosen, all of them where it is a number of all.
  const chosen = (_, k) => !((the.measure[2] - 1) in entry.found) || k === the.measure[2] - 1;
  for (const kind of ["truth", "found"]) if ($(`show-${kind}`).checked)
    node.append(...entry[kind].filter(chosen).map((d) => make("path", { class: kind, d })));
  return node;
}
function thumb(v, f) {
  const video = the.set.videos[v];
  const name = `${video.name} / ${video.frames[f]}`;
  const button = make("button", { type: "button", title: name },
    picture(data.pictures[video.pictures[f]], `frame ${name} with the outlines of truth and prediction`));
  button.addEventListener("click", () => go({ video: v, frame: f }));
  return button;
}

/** A chart over the frames of a video; lines: [class, values]; a click or a drag chooses a frame. */
function strip(label, lines, frames, ticks) {
  const width = Math.max(240, $("strips").clientWidth), left = 34, right = width - 6, top = 18, bottom = 92;
  const x = (i) => (frames > 1 ? left + ((right - left) * i) / (frames - 1) : (left + right) / 2);
  const most = ceiling(defined(lines.flatMap(([, values]) => [largest(values)])));
  const y = (value) => bottom - ((bottom - top) * value) / most;
  const node = make("svg", { class: "chart pick", height: ticks ? 104 : 98, role: "img", "aria-label": `${label} over the frames` });
  node.append(make("text", { x: left, y: 11 }, label));
  for (const value of [0, most / 2, most]) {
    node.append(make("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
    node.append(make("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, String(+value.toPrecision(3))));
  }
  for (const [kind, values] of lines) {
    let d = "";
    values.forEach((value, i) => {
      if (value != null) d += `${i && values[i - 1] != null ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}h.01`;
    });
    node.append(make("path", { class: kind, d }));
  }
  if (ticks) node.append(make("path", { class: "ticks", d: ticks.map((i) => `M${x(i).toFixed(1)} 98v5`).join("") }));
  node.append(make("line", { class: "cursor", x1: x(state.frame), x2: x(state.frame), y1: top - 3, y2: bottom }));
  const at = (event) => {
    const place = ((event.clientX - node.getBoundingClientRect().left - left) / (right - left)) * (frames - 1);
    return Math.max(0, Math.min(frames - 1, Math.round(place)));
  };
  node.addEventListener("pointermove", (event) => (event.buttons ? go({ frame: at(event) }) : read(at(event))));
  node.addEventListener("pointerdown", (event) => go({ frame: at(event) }));
  node.addEventListener("pointerleave", () => read(state.frame));
  return node;
}

/** The numbers of one frame, in words. */
function read(frame) {
  const area = areas(the.video);
  const parts = [`frame ${the.video.frames[frame]} (${frame + 1} of ${the.video.frames.length})`];
  for (const values of series(the.video)) parts.push(`${inFrames(the.video)[1].replaceAll("_", " ")} ${digits(values[frame])}`);
  if (area) for (const [kind, word] of [["truth", "truth"], ["found", "prediction"]])
    parts.push(`${word} ${area[kind][frame] == null ? "–" : `${area[kind][frame].toPrecision(3)} %`}`);
  $("reading").textContent = parts.join(" · ");
}

function showList() {
  const { videos } = the.set, key = state.measure, sought = $("filter").value.toLowerCase();
  const order = $("order").value, sign = order === "high" ? -1 : 1;
  const rows = videos.map((video, i) => [i, video, video.scores[key] ?? null])
    .filter(([, video]) => video.name.toLowerCase().includes(sought));
  if (order !== "name") rows.sort((a, b) => (a[2] === null) - (b[2] === null) || sign * (a[2] - b[2]));
  const top = ceiling([largest(videos.map((video) => video.scores[key]))]);
  const shown = state.all ? rows : rows.slice(0, LIMIT);
  $("list").replaceChildren(...shown.map(([i, video, value]) => {
    const button = make("button", { type: "button", title: `${video.name}: ${digits(value)}, ${video.frames.length} frames`,
      "aria-current": String(i === state.video), "data-video": i },
    make("span", { class: "name" }, video.name), bar(value, top), make("span", { class: "value" }, digits(value)));
    button.addEventListener("click", () => go({ video: i, frame: 0 }));
    return make("li", {}, button);
  }));
  if (shown.length < rows.length) {
    const more = make("button", { type: "button", class: "all" }, `show all ${rows.length.toLocaleString("en")}`);
    more.addEventListener("click", () => { state.all = true; showList(); });
    $("list").append(make("li", {}, more));
  }
  $("found").textContent = `${rows.length.toLocaleString("en")} of ${videos.length.toLocaleString("en")} videos · ${words(the.measure)}`;
}

/** The chosen video in the list, whose buttons stay: a new one would lose the focus, and thousands take a second. */
function markList() {
  for (const button of $("list").querySelectorAll("[data-video]"))
    button.setAttribute("aria-current", String(+button.dataset.video === state.video));
}

function showViewer() {
  const { video } = the, frames = video.frames.length, area = areas(video), lines = series(video);
  const withPicture = [...video.pictures.keys()].filter((i) => video.pictures[i] != null);
  const some = withPicture.length < frames ? withPicture : null;
  $("video").textContent = video.name;
  $("slider").max = frames - 1;
  $("slider").value = state.frame;
  $("slider").setAttribute("aria-valuetext", `frame ${video.frames[state.frame]}`);
  const strips = lines.length ? [strip(words(inFrames(video)), lines.map((values) => ["score", values]), frames, area ? null : some)] : [];
  if (area) strips.push(strip("area, % of the image: truth dashed, prediction solid", [["truth", area.truth], ["found", area.found]], frames, some));
  if (area && area.sure.length) strips.push(strip("confidence, %: the map in the predicted mask", [["found", area.sure]], frames, null));
  $("strips").replaceChildren(...(frames > 1 ? strips : []));
  for (const id of ["back", "slider", "on"]) $(id).disabled = frames < 2;
  read(state.frame);
  const place = video.pictures[state.frame], name = `${video.name} / ${video.frames[state.frame]}`;
  if (place != null) {
    $("picture").replaceChildren(picture(data.pictures[place], `frame ${name} with the outlines of truth and prediction`));
    $("caption").replaceChildren(...named(video, state.frame));
  } else {
    $("picture").replaceChildren(make("p", { class: "missing" }, "This frame has no picture in this file."));
    $("caption").textContent = withPicture.length ? `${withPicture.length} of ${frames} frames have one: the marks under the curves.` : "";
  }
  const step = Math.max(1, (withPicture.length - 1) / 9);
  const film = new Set(Array.from({ length: Math.min(10, withPicture.length) }, (_, i) => withPicture[Math.round(i * step)]));
  const focused = [...$("film").children].indexOf(document.activeElement);
  $("film").replaceChildren(...(frames > 1 ? [...film].map((f) => {
    const button = thumb(state.video, f);
    button.setAttribute("aria-current", String(f === state.frame));
    return button;
  }) : []));
  if (focused >= 0) $("film").children[focused]?.focus({ preventScroll: true });
}
/** Further down on the page a choice would change what cannot be seen. */
const toViewer = () => $("viewer").scrollIntoView({ block: "nearest" });

function showExtremes() {
  const { set } = the;
  for (const kind of ["worst", "best"]) $(kind).replaceChildren(...set[kind].map(([v, f, value]) => {
    const button = thumb(v, f);
    button.append(make("span", {}, make("b", {}, digits(value)), " ", ...named(set.videos[v], f)));
    button.addEventListener("click", toViewer);
    return button;
  }));
  $("extremes").hidden = !set.worst.length;
  $("extremes-note").textContent = `${set.name}, by ${words(set.ranking)}; at most three frames of one video. Click one to see its video.`;
}

function showSizes() {
  const points = [];
  the.set.videos.forEach((video, v) => {
    const area = areas(video), [values] = series(video);
    if (area && values) values.forEach((value, f) => value != null && area.truth[f] > 0 && points.push([area.truth[f], value, v, f]));
  });
  $("sizes").hidden = !points.length;
  if (!points.length) return;
  const label = words(inFrames(the.video));
  $("sizes-note").textContent = `${label} of ${points.length.toLocaleString("en")} frames with an object against the area of the truth; ` +
    "below, the plain mean of the frames in each range of sizes.";
  const width = Math.max(280, $("scatter").clientWidth), left = 40, right = width - 8, top = 12, bottom = 220;
  const most = ceiling([largest(points.map((p) => p[1]))]), low = Math.floor(Math.log10(points.reduce((m, p) => Math.min(m, p[0]), 10)));
  const x = (size) => left + ((right - left) * (Math.log10(size) - low)) / (2 - low);
  const y = (value) => bottom - ((bottom - top) * value) / most;
  const frame = (label) => {
    const node = make("svg", { class: "chart", height: 274, role: "img", "aria-label": label });
    for (const value of [0, most / 4, most / 2, (3 * most) / 4, most]) node.append(
      make("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
      make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(+value.toPrecision(3))));
    node.append(make("text", { x: (left + right) / 2, y: 270, "text-anchor": "middle" }, "area of the truth, % of the image"));
    return node;
  };
  const scatter = frame(`${label} of each frame against the area of its object`);
  for (let power = low; power <= 2; power++) scatter.append(make("text", { x: x(10 ** power), y: 236, "text-anchor": "middle" }, String(+(10 ** power).toPrecision(1))));
  scatter.append(make("path", { class: "dots", d: points.map((p) => `M${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}h.01`).join("") }));
  scatter.addEventListener("click", (event) => {
    const box = scatter.getBoundingClientRect(), far = (p) => Math.hypot(x(p[0]) - event.clientX + box.left, y(p[1]) - event.clientY + box.top);
    const near = points.reduce((best, p) => (far(p) < far(best) ? p : best));
    go({ video: near[2], frame: near[3] });
    toViewer();
  });
  const bins = frame(`mean ${label} for each range of sizes`), wide = (right - left) / (LIMITS.length - 1);
  LIMITS.slice(1).forEach((limit, i) => {
    const values = points.filter((p) => p[0] >= LIMITS[i] && (p[0] < limit || limit === 100)).map((p) => p[1]);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length, at = left + wide * (i + 0.5);
    bins.append(make("text", { x: at, y: 235, "text-anchor": "middle" }, `${LIMITS[i]}–${limit}`));
    bins.append(make("text", { x: at, y: 250, "text-anchor": "middle" }, `n ${values.length}`));
    if (!values.length) return;
    bins.append(make("rect", { x: at - wide * 0.32, width: wide * 0.64, y: y(mean), height: bottom - y(mean) },
      make("title", {}, `mean ${digits(mean)} of ${values.length} frames`)));
    bins.append(make("text", { x: at, y: y(mean) - 4, "text-anchor": "middle" }, mean.toFixed(2)));
  });
  $("scatter").replaceChildren(scatter);
  $("bins").replaceChildren(bins);
}

/** Changes what is shown, and the address with it, so that a link can point at a frame. */
function go(change) {
  const before = { ...state };
  Object.assign(state, change);
  state.video = Math.min(state.video, the.set.videos.length - 1);
  state.frame = Math.max(0, Math.min(the.video.frames.length - 1, state.frame));
  const outer = before.set !== state.set || before.measure !== state.measure || change.redraw;
  if (outer) showList();
  else if (before.video !== state.video) markList();
  showViewer();
  if (outer) { showExtremes(); showSizes(); }
  const place = { set: the.set.name, video: the.video.name, frame: the.video.frames[state.frame] };
  if (!change.quiet) history.replaceState(null, "", `#${new URLSearchParams(place)}`);
}

/** What the address asks for; what it does not name is left as it is. */
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const index = (list, name, otherwise) => (list.findIndex((x) => (x.name ?? x) === name) + 1 || otherwise + 1) - 1;
  const set = index(data.sets, asked.get("set"), state.set);
  const lowest = data.sets[set].worst[0] || [0, 0];
  const video = index(data.sets[set].videos, asked.get("video"), lowest[0]);
  const frame = index(data.sets[set].videos[video].frames, asked.get("frame"), asked.get("video") ? 0 : lowest[1]);
  $("set").value = set;
  go({ set, video, frame, redraw: true, quiet: true });
}

$("set").append(...data.sets.map((set, i) => make("option", { value: i }, set.name)));
$("set").parentNode.hidden = data.sets.length < 2;
const classes = new Set(data.measures.map((measure) => measure[2]).filter((id) => id !== "all")).size;
$("measure").append(...data.measures.map((m, i) => make("option", { value: i }, words(m) + (classes > 1 ? ` · class ${m[2]}` : ""))));
// The first number that a video has: vps has none for videos of two frames.
state.measure = Math.max(0, data.measures.findIndex((_, i) => data.sets.some((set) => set.videos.some((video) => video.scores[i] != null))));
$("measure").value = state.measure;
$("set").addEventListener("change", () => go({ set: +$("set").value, video: 0, frame: 0 }));
$("measure").addEventListener("change", () => go({ measure: +$("measure").value }));
$("order").addEventListener("change", showList);
$("filter").addEventListener("input", showList);
$("controls").addEventListener("submit", (event) => event.preventDefault());
$("slider").addEventListener("input", () => go({ frame: +$("slider").value }));
$("back").addEventListener("click", () => go({ frame: state.frame - 1 }));
$("on").addEventListener("click", () => go({ frame: state.frame + 1 }));
for (const id of ["show-truth", "show-found"]) $(id).addEventListener("change", () => go({ redraw: true }));
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const other = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
  if (!step || other || event.target.closest?.("input, select, .wide, pre")) return;
  event.preventDefault();
  go({ frame: state.frame + step });
});
window.addEventListener("hashchange", fromAddress);
let width = 0;
new ResizeObserver(() => {
  if (width && width !== $("videos").clientWidth) go({ redraw: true, quiet: true });
  width = $("videos").clientWidth;
}).observe($("videos"));
$("videos").hidden = !data.sets.length;
if (data.sets.length) fromAddress();
