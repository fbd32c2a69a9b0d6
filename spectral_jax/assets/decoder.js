"use strict";
// The decoder of a network, run by a worker of the report's page: latents in, vertices and normals out.
//
// The first message is { decoder, faces }: what spectral_jax/report/decoder.py packs, and vertex indices, three for each
// face. Every other message is a latent; the answer is { positions, normals }, three numbers for each vertex, in metres.
//
// Arrays are flat, rows first. A network's channels are (chan, freq), as in spectral_jax/network/autoencoder.py.

const ACTIVATIONS = {
  ELU: (x) => (x > 0 ? x : Math.expm1(x)),
  ReLU: (x) => Math.max(x, 0),
  Tanh: Math.tanh,
  Sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  LeakyReLU: (x) => (x > 0 ? x : 0.01 * x),
  SiLU: (x) => x / (1 + Math.exp(-x)),
};

/** The bytes of base64; a loop, as there are millions. */
function bytes(text) {
  const plain = atob(text), found = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) found[i] = plain.charCodeAt(i);
  return found.buffer;
}

/** A packed array as numbers: a value times the step of its column. */
function numbers({ steps, values }) {
  const step = new Float32Array(bytes(steps)), value = new Int16Array(bytes(values)), found = new Float32Array(value.length);
  for (let i = 0; i < found.length; i += step.length) for (let k = 0; k < step.length; k++) found[i + k] = value[i + k] * step[k];
  return found;
}

/** The same tree of records and lists with its packed arrays as numbers, the columns of matrices one after the other. */
function unpacked(tree) {
  if (Array.isArray(tree)) return tree.map(unpacked);
  if (!tree.steps) return Object.fromEntries(Object.entries(tree).map(([name, part]) => [name, unpacked(part)]));
  const found = numbers(tree), columns = tree.shape.at(-1), rows = found.length / columns;
  return tree.shape.length === 1 ? found : found.map((_, i) => found[(i % rows) * columns + Math.floor(i / rows)]);
}

/** The scalar products of each of the rows `a` with each of the rows `b`, all of `length` numbers: (rows of a, rows of b). */
function products(a, b, length) {
  const count = a.length / length, columns = b.length / length;
  const rows = new Float32Array(3 * Math.ceil(count / 3) * length), y = new Float32Array(3 * Math.ceil(count / 3) * columns);
  rows.set(a);  // three at a time are faster, so there are zeros at the end
  for (let column = 0; column < columns; column++) {
    const start = column * length;
    for (let row = 0; row < count; row += 3) {
      const first = row * length, second = first + length, third = second + length, place = row * columns + column;
      let p = 0, q = 0, r = 0;
      for (let i = 0; i < length; i++) {
        const factor = b[start + i];
        p += factor * rows[first + i];
        q += factor * rows[second + i];
        r += factor * rows[third + i];
      }
      y[place] = p;
      y[place + columns] = q;
      y[place + 2 * columns] = r;
    }
  }
  return y.subarray(0, count * columns);
}

/** A dense layer: x times its kernel, plus its bias. */
const dense = (x, { kernel, bias }) => products(x, kernel, x.length).map((value, i) => value + bias[i]);

/** A convolution of channels along frequency with zero padding, plus its bias. */
function convolved(x, size, { kernel, bias }) {
  const all = kernel.length / bias.length, chan = all / size, length = x.length / chan;
  const seen = new Float32Array(length * all);  // what each place sees: its neighbours' channels, one tap after the other
  for (let tap = 0; tap < size; tap++) {
    const shift = tap - (size >> 1);
    for (let k = Math.max(0, -shift); k < Math.min(length, length - shift); k++) {
      for (let c = 0; c < chan; c++) seen[k * all + tap * chan + c] = x[c * length + k + shift];
    }
  }
  return products(kernel, seen, all).map((value, i) => value + bias[Math.floor(i / length)]);
}

/** SAE-LP's coefficients, (3, freq): a dense layer; layers of unpooling, convolution and activation; a convolution. */
function decodeSaeLp({ weights: { linear, layers, last }, activation, convSize }, latent) {
  let x = dense(latent, linear);
  for (const layer of layers) {
    const chan = layer.kernel.length / layer.bias.length / convSize;
    x = convolved(products(x, layer.pooling, x.length / chan), convSize, layer).map(ACTIVATIONS[activation]);
  }
  return convolved(x, convSize, last);
}

/** The residual network's, or its vertices: the latent, corrected by two hidden layers, is the scores of principal directions. */
function decodeResidual({ weights: { hidden, last, directions, signs } }, latent) {
  const sign = (i) => (signs && i < signs.length ? signs[i] : 1);
  const correction = (x) => {
    const first = dense(x, hidden[0]).map(ACTIVATIONS.ELU);
    return dense(dense(first, hidden[1]).map((value, i) => first[i] + ACTIVATIONS.ELU(value)), last);
  };
  let change = correction(latent);
  if (signs) {  // the part of the correction that a mirror image shares
    const mirrored = correction(latent.map((value, i) => sign(i) * value));
    change = change.map((value, i) => (value + sign(i) * mirrored[i]) / 2);
  }
  return dense(change.map((value, i) => (i < latent.length ? latent[i] : 0) + value), directions);
}

/** Vertices, (3, vertex), from coefficients, (3, freq), which may go on beyond the modes of the page. */
function reconstructed(modes, kept, coefficients) {
  const all = coefficients.length / 3, lowest = new Float32Array(3 * kept);
  for (let axis = 0; axis < 3; axis++) lowest.set(coefficients.subarray(axis * all, axis * all + kept), axis * kept);
  return products(lowest, modes, kept);
}

/** Points as x, y, z, x, y, z, ... from all x, all y and all z. */
function interleaved(planes) {
  const count = planes.length / 3, points = new Float32Array(planes.length);
  for (let i = 0; i < count; i++) for (let axis = 0; axis < 3; axis++) points[3 * i + axis] = planes[axis * count + i];
  return points;
}

/** Normals of vertices: sums of the normals of their faces, which are as long as the faces are large. */
function normalsOf(p, faces) {
  const normals = new Float32Array(p.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const ux = p[b] - p[a], uy = p[b + 1] - p[a + 1], uz = p[b + 2] - p[a + 2];
    const vx = p[c] - p[a], vy = p[c + 1] - p[a + 1], vz = p[c + 2] - p[a + 2];
    const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
    for (const corner of [a, b, c]) {
      normals[corner] += x;
      normals[corner + 1] += y;
      normals[corner + 2] += z;
    }
  }
  return normals;
}

let network, modes, faces;
addEventListener("message", ({ data }) => {
  if (data.decoder) {
    [network, faces] = [{ ...data.decoder, weights: unpacked(data.decoder.weights) }, data.faces];
    modes = network.modes && numbers(network.modes);  // none where the network leads to vertices
    return;
  }
  const decoded = network.network === "residual" ? decodeResidual(network, data) : decodeSaeLp(network, data);
  const positions = interleaved(modes ? reconstructed(modes, network.modes.shape[1], decoded) : decoded);
  const normals = normalsOf(positions, faces);
  postMessage({ positions, normals }, [positions.buffer, normals.buffer]);
});
