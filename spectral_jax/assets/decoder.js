"use strict";
// The decoder of a network, run by a worker of the report's page: latents in, vertices and normals out.
//
// The first message is { decoder, faces }: the text of the page's element #decoder, which
// spectral_jax/report/decoder.py writes, and vertex indices, three for each face. Every other message is a latent;
// the answer is { positions, normals }, three numbers for each vertex, in metres.
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

/** A packed array as { shape, steps, values }: an entry is its value times the step of its column. */
const opened = ({ shape, steps, values }) => ({ shape, steps: new Float32Array(bytes(steps)), values: new Int16Array(bytes(values)) });

/** A packed array as numbers, with its shape. */
function numbers(packed) {
  const { shape, steps, values } = opened(packed);
  return Object.assign(Float32Array.from(values, (value, i) => value * steps[i % steps.length]), { shape });
}

/** The same tree of records and lists with its packed arrays as numbers. */
function unpacked(tree) {
  if (tree.steps) return numbers(tree);
  if (Array.isArray(tree)) return tree.map(unpacked);
  return Object.fromEntries(Object.entries(tree).map(([name, part]) => [name, unpacked(part)]));
}

/** The product of rows of numbers with a matrix: (rows, inner) by (inner, columns). */
function product(x, matrix) {
  const [inner, columns] = matrix.shape;
  const rows = x.length / inner;
  const y = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const out = y.subarray(row * columns, (row + 1) * columns);
    for (let i = 0; i < inner; i++) {
      const factor = x[row * inner + i], start = i * columns;
      if (factor !== 0) for (let k = 0; k < columns; k++) out[k] += factor * matrix[start + k];
    }
  }
  return y;
}

/** A dense layer: x times its kernel, plus its bias. */
const dense = (x, { kernel, bias }) => product(x, kernel).map((value, i) => value + bias[i]);

/** A convolution along frequency with zero padding, plus its bias. The kernel is (size, chan, out). */
function convolved(x, { kernel, bias }) {
  const [size, chan, out] = kernel.shape;
  const length = x.length / chan;
  const y = new Float64Array(out * length);
  for (let to = 0; to < out; to++) {
    const row = y.subarray(to * length, (to + 1) * length).fill(bias[to]);
    for (let from = 0; from < chan; from++) {
      for (let tap = 0; tap < size; tap++) {
        const factor = kernel[(tap * chan + from) * out + to], shift = tap - (size >> 1), start = from * length + shift;
        const end = Math.min(length, length - shift);
        for (let k = Math.max(0, -shift); k < end; k++) row[k] += factor * x[start + k];
      }
    }
  }
  return y;
}

/** SAE-LP: a dense layer; layers of unpooling, convolution and activation; a last convolution. */
function decodeSaeLp({ weights: { linear, layers, last }, activation }, latent) {
  let x = dense(latent, linear);
  for (const layer of layers) x = convolved(product(x, layer.pooling), layer).map(ACTIVATIONS[activation]);
  const y = convolved(x, last), length = y.length / 3;
  return (mode, axis) => y[axis * length + mode];
}

/** The residual network: scores of principal directions, in which two hidden layers correct the latent. */
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
  const y = dense(change.map((value, i) => (i < latent.length ? latent[i] : 0) + value), directions);
  return (mode, axis) => y[3 * mode + axis];
}

/** Vertices of coefficients, by the product with the modes, (vertex, freq), whose steps go to the coefficients. */
function reconstructed({ shape: [count, length], steps, values }, coefficient) {
  const [cx, cy, cz] = [0, 1, 2].map((axis) => Float64Array.from(steps, (step, mode) => step * coefficient(mode, axis)));
  const positions = new Float32Array(3 * count);
  for (let vertex = 0, i = 0; vertex < count; vertex++) {
    let x = 0, y = 0, z = 0;
    for (let mode = 0; mode < length; mode++, i++) {
      const value = values[i];
      x += value * cx[mode];
      y += value * cy[mode];
      z += value * cz[mode];
    }
    positions[3 * vertex] = x;
    positions[3 * vertex + 1] = y;
    positions[3 * vertex + 2] = z;
  }
  return positions;
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
    ({ modes, ...network } = JSON.parse(data.decoder));
    [modes, network.weights, faces] = [opened(modes), unpacked(network.weights), data.faces];
    return;
  }
  const decode = network.network === "residual" ? decodeResidual : decodeSaeLp;
  const positions = reconstructed(modes, decode(network, data));
  const normals = normalsOf(positions, faces);
  postMessage({ positions, normals }, [positions.buffer, normals.buffer]);
});
