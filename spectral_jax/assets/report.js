"use strict";
const { figures, faces, shown, path, ends, move, decoder } = JSON.parse(document.getElementById("content").textContent);
const all = (selector) => [...document.querySelectorAll(selector)];
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const numbers = (packed) => Float32Array.from(new Int16Array(bytes(packed.bytes)), (n) => n * packed.step);
const rows = (flat, count) => Array.from({ length: count }, (_, i) => flat.slice(i * flat.length / count, (i + 1) * flat.length / count));
const points = (packed) => rows(numbers(packed), 3);

const corners = rows(new (faces.kind === "u2" ? Uint16Array : Uint32Array)(bytes(faces.bytes)), 3);
const meshes = shown.map((mesh) => ({ original: points(mesh.original), decoded: points(mesh.decoded), errors: numbers(mesh.errors) }));
const way = path.map(points);
const [start, end] = ends.map(points);
const mover = decoder && moveLatents(move, decoder, corners, () => coloured("var(--clay)").match(/[\d.]+/g).slice(0, 3).map((part) => part / 255));
const straight = (t) => start.map((axis, k) => axis.map((x, v) => (1 - t) * x + t * end[k][v]));

/** The same value with the style sheet's variables as the colours that they are now. */
function coloured(value) {
  if (typeof value === "string" && value.startsWith("var(")) {
    probe.style.color = value;
    return getComputedStyle(probe).color;
  }
  if (Array.isArray(value)) return value.map(coloured);
  if (value === null || typeof value !== "object" || ArrayBuffer.isView(value)) return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, coloured(part)]));
}

const cameras = {};  // of the scenes that were turned
const settings = { displayModeBar: false, responsive: true, scrollZoom: false };

function draw(place, { data, layout }) {
  const body = getComputedStyle(document.body);
  probe.style.color = "var(--soft)";
  const font = { family: body.fontFamily, size: 13, color: getComputedStyle(probe).color };
  return Plotly.react(place, coloured(data), { ...coloured(layout), font, autosize: true }, settings);
}

/** One of the two kinds of scenes with a mesh in it, coloured by errors if there are any. */
function drawScene(place, name, [x, y, z], errors) {
  const [i, j, k] = corners;
  const plain = { intensity: x.map(() => 0), colorscale: [[0, "var(--clay)"], [1, "var(--clay)"]], hovertemplate: undefined, hoverinfo: "skip" };
  const look = errors ? { intensity: errors } : plain;  // always an intensity: plotly keeps one that goes missing
  const { data: [surface], layout } = structuredClone(figures[name]);
  const { camera, aspectratio: box } = layout.scene;
  const distance = 1.35 * Math.max(box.y, Math.max(box.x, box.z) * place.clientHeight / place.clientWidth);
  for (const axis of "xyz") camera.eye[axis] *= distance;
  layout.scene.camera = cameras[name] ?? camera;
  return draw(place, { data: [{ ...surface, ...look, x, y, z, i, j, k }], layout });
}

const form = () => document.querySelector("input[name=form]:checked").value;
const slider = document.getElementById("amount");
slider.max = way.length - 1;
slider.value = slider.max / 2;

function drawMeshes() {
  for (const place of all("[data-shown]")) {
    const mesh = meshes[place.dataset.shown];
    drawScene(place, "shown", mesh[form()], form() === "decoded" ? mesh.errors : null);
  }
}

function drawWay() {
  const t = slider.value / slider.max;
  drawScene(document.querySelector("[data-way=latent]"), "way", way[slider.value]);
  drawScene(document.querySelector("[data-way=straight]"), "way", straight(t));
  slider.parentElement.querySelector("output").textContent = `${Math.round(100 * t)} %`;
}

function drawAll() {
  for (const place of all("[data-figure]")) draw(place, figures[place.dataset.figure]);
  drawMeshes();
  drawWay();
  mover?.recolour();
}

/** Turning one of the scenes of a kind turns the others with it. */
function turnTogether(places, name) {
  let turning = false;
  for (const place of places) {
    place.on("plotly_relayout", async (change) => {
      const camera = change["scene.camera"];
      if (!camera || turning) return;
      turning = true;
      cameras[name] = camera;
      await Promise.all(places.filter((other) => other !== place).map((other) => Plotly.relayout(other, { "scene.camera": camera })));
      turning = false;
    });
  }
}

drawAll();
turnTogether(all("[data-shown]"), "shown");
turnTogether(all("[data-way]"), "way");
for (const input of all("input[name=form]")) input.addEventListener("change", drawMeshes);
for (const place of all("[data-shown]")) {
  place.addEventListener("dblclick", () => {
    mover?.start(place.dataset.shown);
    document.getElementById("move").scrollIntoView();
  });
}
let waiting = 0;
slider.addEventListener("input", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawWay);
});
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", drawAll);
document.getElementById("scheme").addEventListener("click", () => {
  const root = document.documentElement.style;
  root.colorScheme = (root.colorScheme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
  drawAll();
});
document.documentElement.dataset.drawn = "yes";
