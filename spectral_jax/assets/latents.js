"use strict";
// The section "Move the latents": sliders, a worker that decodes (decoder.js), and the mesh that comes out (surface.js).

const PAGE = 16;  // latents that have a slider at once
const find = (name) => document.getElementById(`move-${name}`);
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;

/** A slider of -3 to 3, or further if a value lies there, with its name. `read` gives the value now, `write` takes a new one. */
function latentSlider(name, note, read, write) {
  const row = document.createElement("label"), title = document.createElement("span");
  const input = document.createElement("input"), output = document.createElement("output");
  row.className = "latent";
  title.textContent = name;
  title.append(Object.assign(document.createElement("small"), { textContent: note }));
  Object.assign(input, { type: "range", min: -3, max: 3, step: 0.01 });
  input.setAttribute("aria-label", `${name}, ${note || "in standard deviations"}`);
  input.addEventListener("input", () => write(Number(input.value)));
  row.append(title, input, output);
  const update = () => {
    const value = read();
    [input.min, input.max] = [Math.min(input.min, Math.floor(value)), Math.max(input.max, Math.ceil(value))];
    [input.value, output.textContent] = [value, signed(value)];
    input.setAttribute("aria-valuetext", `${value.toFixed(2)} standard deviations`);
  };
  return { row, update };
}

/** The text of an .obj file in the numbering of the dataset's files, whose unused vertices stay where they are. */
function objText(positions, faces, unused) {
  const point = (values, i) => `v ${[0, 1, 2].map((axis) => values[3 * i + axis].toFixed(6)).join(" ")}`;
  const lines = [], numbers = [];
  for (let read = 0, left = 0; 3 * read < positions.length || left < unused.indices.length;) {
    if (unused.indices[left] === lines.length) lines.push(point(unused.vertices, left++));
    else {
      lines.push(point(positions, read++));
      numbers.push(lines.length);
    }
  }
  for (let f = 0; f < faces.length; f += 3) lines.push(`f ${numbers[faces[f]]} ${numbers[faces[f + 1]]} ${numbers[faces[f + 2]]}`);
  return `${lines.join("\n")}\n`;
}

/** Fill the section. `colour` gives the colour of the mesh as it is now; the result has what the rest of the page needs. */
function moveLatents(move, decoder, [i, j, k], colour) {
  const floats = (text) => new Float32Array(bytes(text));
  const [mean, spread, components, deviations, startLatents] = ["mean", "spread", "components", "deviations", "startLatents"].map((name) => floats(move[name]));
  const size = mean.length, latent = Float64Array.from(mean);
  const faces = new Uint32Array(3 * i.length).map((_, n) => [i, j, k][n % 3][Math.floor(n / 3)]);
  const unused = move.unused ? { indices: new Uint32Array(bytes(move.unused.indices)), vertices: floats(move.unused.vertices) } : { indices: [] };
  let surface = null;
  try {
    surface = new Surface(find("mesh"), faces);
  } catch {
    find("mesh").replaceWith(Object.assign(document.createElement("p"), { className: "warning", textContent: "This browser has no WebGL, so the mesh is not drawn. The sliders move it all the same, and it can be saved." }));
  }

  // At most one latent is with the worker; the newest of those that come meanwhile follows it.
  let worker = null, busy = false, waiting = false, saving = false;
  function ask() {
    if (!worker) {
      worker = new Worker(`data:text/javascript,${encodeURIComponent(move.source)}`);
      worker.addEventListener("message", ({ data }) => answered(data));
      worker.postMessage({ decoder, faces });
    }
    waiting = busy;
    if (!busy) worker.postMessage(Float32Array.from(latent));
    busy = true;
  }
  function answered(mesh) {
    busy = false;
    surface?.show(mesh);
    if (waiting) ask();
    else if (saving) {
      saving = false;
      const address = URL.createObjectURL(new Blob([objText(mesh.positions, faces, unused)], { type: "model/obj" }));
      Object.assign(document.createElement("a"), { href: address, download: "mesh.obj" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    }
  }

  const place = (direction) => {
    let sum = 0;
    for (let n = 0; n < size; n++) sum += (latent[n] - mean[n]) * components[direction * size + n];
    return sum / deviations[direction];
  };
  const directions = move.shares.map((share, d) =>
    latentSlider(`Direction ${d + 1}`, `${share.toFixed(share < 10 ? 1 : 0)} % of variance`, () => place(d), (value) => {
      const step = (value - place(d)) * deviations[d];
      change((n) => latent[n] + step * components[d * size + n]);
    }));
  const latents = Array.from(mean, (_, n) =>
    latentSlider(`Latent ${n + 1}`, "", () => (latent[n] - mean[n]) / spread[n], (value) => change((m) => (m === n ? mean[n] + value * spread[n] : latent[m]))));

  /** Set every number of the latent, and show what has changed. */
  function change(value) {
    latent.set(Array.from(latent, (_, n) => value(n)));
    for (const slider of [...directions, ...latents]) slider.update();
    ask();
  }

  const starts = find("start"), pages = find("page");
  starts.append(new Option("the mean of the train split", -1), ...move.starts.map((name, n) => new Option(name, n)));
  function start(n = starts.value) {
    starts.value = n;
    change((m) => (n < 0 ? mean[m] : startLatents[n * size + m]));
  }
  for (let first = 0; first < size; first += PAGE) pages.append(new Option(`${first + 1} to ${Math.min(first + PAGE, size)}`, first));
  const turnPage = () => find("latents").replaceChildren(...latents.slice(Number(pages.value), Number(pages.value) + PAGE).map(({ row }) => row));
  find("directions").append(...directions.map(({ row }) => row));
  find("pages").hidden = size <= PAGE;
  turnPage();
  pages.addEventListener("change", turnPage);
  starts.addEventListener("change", () => start());
  find("again").addEventListener("click", () => start());
  find("save").addEventListener("click", () => {
    saving = true;
    ask();
  });

  function recolour() {
    if (!surface) return;
    surface.colour = colour();
    surface.draw();
  }
  for (const slider of [...directions, ...latents]) slider.update();
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    ask();
  }, { rootMargin: "600px" }).observe(find("directions"));
  return { start, recolour };
}
